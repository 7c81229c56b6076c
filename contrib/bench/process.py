"""What programs cost that run: memory and processor time of fleetd, and what etcd tells of itself."""

import os
import re
import urllib.request

from contrib.testbed import EtcdServer, Machine

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{[^}]*\})? (?P<value>\S+)$", re.MULTILINE)


def resident_mib(machine: Machine) -> float:
    """What a machine's fleetd holds in memory, in MiB."""
    status = machine.path(f"/proc/{machine.main_pid('fleet.service')}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def cpu_s(machine: Machine) -> float:
    """The processor time that a machine's fleetd has used since it was started, in seconds."""
    stat = machine.path(f"/proc/{machine.main_pid('fleet.service')}/stat").read_text()
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / TICKS_PER_S


def etcd_counters(etcd: EtcdServer) -> tuple[float, float]:
    """The processor time in seconds that etcd has used since it was started, and how many requests it has answered."""
    with urllib.request.urlopen(f"{etcd.client_url}/metrics") as response:
        samples = [(found["name"], float(found["value"])) for found in _SAMPLE.finditer(response.read().decode())]
    cpu = sum(value for name, value in samples if name == "process_cpu_seconds_total")
    return cpu, sum(value for name, value in samples if name == "grpc_server_handled_total")
