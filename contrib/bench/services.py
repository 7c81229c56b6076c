"""`python -m contrib.bench.services`: how soon others learn that a unit's check fails, and what checks cost.

On three real machines: instances on the first, fleet-dns and HAProxy asked on the second. Ends with 1 if a target is
missed.
"""

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import dns.message
import dns.query

from contrib import interrupt
from contrib.bench.figure import Figure, render_table
from contrib.bench.process import cpu_s
from contrib.testbed import Cluster, Machine, missing_requirements
from contrib.testbed.requests import Requests
from contrib.testbed.root import CHECKOUT

INSTANCES = 10
INTERVAL_S, FAILURES = 1, 2
MOST_LATE_S, MOST_SWITCH_S = 0.2, 1.2
DNS_PORT, HAPROXY_PORT = 8600, 8080
CHECKED, CHECKED_INTERVAL_S = 200, 5
REST_S = 60.0
MOST_PERCENT = 1.0
NAME = "_web._tcp.fleet.internal"
HERE = "/run/bench"
WITHIN_S = 120.0

# Each answers with its number, whether its check passes or not.
INSTANCE = f"""\
[Service]
ExecStart=/usr/bin/busybox httpd -f -p 91%i -h {HERE}/%i

[X-Fleet]
Instances={" ".join(f"{number:02}" for number in range(INSTANCES))}
Announce=web 91%i
Check=http:91%i/healthz
CheckInterval={INTERVAL_S}s
CheckFailures={FAILURES}
MachineID=%MACHINE%
"""
CHECKED_UNIT = f"""\
[Service]
ExecStart=/bin/sleep infinity

[X-Fleet]
Instances={CHECKED}
Announce=checked-%i 9000
Check=http:9000/healthz
CheckInterval={CHECKED_INTERVAL_S}s
MachineID=%MACHINE%
"""


def main() -> int:
    argparse.ArgumentParser(prog="python -m contrib.bench.services", description=__doc__).parse_args()
    if missing := missing_requirements():
        print(f"contrib.bench.services boots machines: {'; '.join(missing)}", file=sys.stderr)
        return 2
    interrupt.end_on_first()
    with Cluster(machines=3, config={"dns_listen": f"127.0.0.1:{DNS_PORT}"}) as cluster, TemporaryDirectory() as folder:
        figures = [*_measure_cost(cluster, Path(folder)), *_measure_latency(cluster, Path(folder))]
    print(f"\n{render_table(figures)}")
    return 0 if all(figure.holds for figure in figures) else 1


def _measure_latency(cluster: Cluster, folder: Path) -> Iterator[Figure]:
    """From a check that begins to fail to the name that is gone on another machine, and to the last request that its
    HAProxy sends there."""
    source, asked, _ = cluster.machines
    for number in range(INSTANCES):
        directory = source.path(f"{HERE}/{number:02}")
        directory.mkdir(parents=True)
        (directory / "index.html").write_text(f"{number:02}\n")
        (directory / "healthz").write_text("well\n")
    listen = f"dns_listen=127.0.0.1:{DNS_PORT},{asked.address}:{DNS_PORT}"  # this program asks it, too
    asked.run(["sed", "-i", f"s/^dns_listen=.*/{listen}/", "/etc/fleet/fleet.conf"])
    asked.run(["systemctl", "reload", "fleet"])
    _start(cluster, folder, {"web@.service": INSTANCE.replace("%MACHINE%", source.id)})
    cluster.fleetctl("start", str(CHECKOUT / "units/deploy/balancer.service"))
    cluster.wait_until("fleet-dns listens there", lambda: _listens(asked), WITHIN_S)
    cluster.wait_until("HAProxy asks all of them", lambda: len(_answering(asked)) == INSTANCES, WITHIN_S)
    late_s, switched_s = [], []
    with Requests(asked.address, HAPROXY_PORT) as requests:
        for number in range(INSTANCES - 1):
            time.sleep(2 + number / INSTANCES * INTERVAL_S)  # at another moment between two checks each time
            began_s = time.monotonic()
            source.path(f"{HERE}/{number:02}/healthz").unlink()
            gone_s = _until_gone(asked, 9100 + number)
            late_s.append(gone_s - began_s - INTERVAL_S * FAILURES)
            time.sleep(2 * MOST_SWITCH_S)
            last_s = max(sent_s for sent_s, answer in requests.answered if answer == f"{number:02}")
            switched_s.append(requests.began_s + last_s - gone_s)
    name = f"a check fails, to the name gone elsewhere, beyond {INTERVAL_S} s x {FAILURES}"
    yield Figure("gone", f"{name}: the longest of {len(late_s)}", "s", (max(late_s),), limit=MOST_LATE_S)
    name = f"from there to the last request of HAProxy: the longest of {len(late_s)}"
    yield Figure("switched", name, "s", (max(switched_s),), limit=MOST_SWITCH_S)
    yield Figure("failed", f"failed of {requests.count} requests", "", (len(requests.failures),), limit=0)


def _measure_cost(cluster: Cluster, folder: Path) -> Iterator[Figure]:
    """What checks cost a fleetd and the store while nothing changes."""
    machine = cluster.machines[0]
    machine.path(f"{HERE}/checked").mkdir(parents=True)
    machine.path(f"{HERE}/checked/healthz").write_text("well\n")
    server = ["systemd-run", "--quiet", "busybox", "httpd", "-f", "-p", "9000", "-h", f"{HERE}/checked"]
    machine.run(server)
    without = _rest(cluster, machine)
    _start(cluster, folder, {"checked@.service": CHECKED_UNIT.replace("%MACHINE%", machine.id)})
    cluster.wait_until("all are announced", lambda: _count_announced(cluster) == CHECKED, WITHIN_S)
    time.sleep(2 * CHECKED_INTERVAL_S)
    before = _newest(cluster)
    percent = _rest(cluster, machine)
    name = f"fleetd with {CHECKED} checks each {CHECKED_INTERVAL_S} s, of a core"
    yield Figure("checks", name, "%", (percent,), (without,), limit=MOST_PERCENT)
    written = sum(_newest(cluster)[prefix] > before[prefix] for prefix in before)
    yield Figure("writes", f"of {' and '.join(before)}, written in {REST_S:g} s", "", (written,), limit=0)


def _rest(cluster: Cluster, machine: Machine) -> float:
    """The processor time that fleetd takes, in percent of a core."""
    before, began_s = cpu_s(machine), time.monotonic()
    time.sleep(REST_S)
    return (cpu_s(machine) - before) / (time.monotonic() - began_s) * 100


def _start(cluster: Cluster, folder: Path, units: dict[str, str]) -> None:
    for name, text in units.items():
        (folder / name).write_text(text)
        applied = folder / name.partition("@")[0]
        applied.mkdir()
        (folder / name).rename(applied / name)
        cluster.fleetctl("apply", str(applied), timeout_s=WITHIN_S)


def _count_announced(cluster: Cluster) -> int:
    return cluster.fleetctl("services", "--no-legend", check=False).stdout.count("announced")


def _newest(cluster: Cluster) -> dict[str, int]:
    """The revision of the last write of what machines say of their units, by kind of record."""
    found = {}
    for kind in ("services", "states"):
        answer = cluster.etcd.etcdctl("get", "--prefix", "--keys-only", "--write-out=json", f"/fleet/{kind}/")
        found[kind] = max((each["mod_revision"] for each in json.loads(answer).get("kvs", ())), default=0)
    return found


def _answering(machine: Machine) -> set[str]:
    """Those that answer requests to this machine's HAProxy."""
    with Requests(machine.address, HAPROXY_PORT) as requests:
        time.sleep(0.5)
    return requests.answers


def _listens(machine: Machine) -> bool:
    with socket.socket() as tcp:
        return tcp.connect_ex((machine.address, DNS_PORT)) == 0


def _until_gone(machine: Machine, port: int) -> float:
    """The time.monotonic() at which this machine's fleet-dns does not name the port any more."""
    while port in _ask(machine):
        time.sleep(0.005)
    return time.monotonic()


def _ask(machine: Machine) -> set[int]:
    """The ports that this machine's fleet-dns names for the service."""
    answer = dns.query.tcp(dns.message.make_query(NAME, "SRV"), machine.address, timeout=5.0, port=DNS_PORT)
    return {each.port for records in answer.answer for each in records}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (TimeoutError, subprocess.SubprocessError) as error:
        print(f"contrib.bench.services: {error}", file=sys.stderr)
        sys.exit(1)
