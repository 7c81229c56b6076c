"""What programs cost that run: memory and processor time of fleetd, and what etcd tells of itself."""

import os
import re
import urllib.request

import msgspec

from contrib.testbed import Machine

MIB = 2**20
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{[^}]*\})? (?P<value>\S+)$", re.MULTILINE)


def resident_mib(machine: Machine, pid: int = 0) -> float:
    """What a process of a machine holds in memory, in MiB: its fleetd (0), or another."""
    status = machine.path(f"/proc/{pid or machine.main_pid('fleet.service')}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def descriptors(machine: Machine) -> int:
    """How many files and connections a machine's fleetd has open."""
    return len(list(machine.path(f"/proc/{machine.main_pid('fleet.service')}/fd").iterdir()))


def cpu_s(machine: Machine) -> float:
    """The processor time that a machine's fleetd has used since it was started, in seconds."""
    stat = machine.path(f"/proc/{machine.main_pid('fleet.service')}/stat").read_text()
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / TICKS_PER_S


class EtcdUsage(msgspec.Struct, frozen=True):
    """What etcd tells of itself: since it was started, processor time in seconds, requests answered and bytes on the
    wire; and what it holds now, in memory and in its database (of which `database_used_mib` is not free)."""

    cpu_s: float
    requests: float
    received_mib: float
    sent_mib: float
    resident_mib: float
    database_mib: float
    database_used_mib: float


def observe_etcd(client_url: str) -> EtcdUsage:
    """Ask etcd. It takes etcd some milliseconds to answer."""
    with urllib.request.urlopen(f"{client_url}/metrics") as response:
        samples = [(found["name"], float(found["value"])) for found in _SAMPLE.finditer(response.read().decode())]

    def sum_of(name: str) -> float:
        return sum(value for each, value in samples if each == name)

    return EtcdUsage(
        cpu_s=sum_of("process_cpu_seconds_total"),
        requests=sum_of("grpc_server_handled_total"),
        received_mib=sum_of("etcd_network_client_grpc_received_bytes_total") / MIB,
        sent_mib=sum_of("etcd_network_client_grpc_sent_bytes_total") / MIB,
        resident_mib=sum_of("process_resident_memory_bytes") / MIB,
        database_mib=sum_of("etcd_mvcc_db_total_size_in_bytes") / MIB,
        database_used_mib=sum_of("etcd_mvcc_db_total_size_in_use_in_bytes") / MIB,
    )
