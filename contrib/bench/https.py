"""`python -m contrib.bench.https`: what the API costs over https, on a real machine.

A list takes at most 60 ms longer with a certificate than over the socket, fleetd at most 3 MiB more, and while
strangers flood the port with handshakes, fleetd answers its socket and stays registered. It ends with 1 if not.
"""

import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from contrib import interrupt
from contrib.bench import process
from contrib.bench.figure import Figure, render_table
from contrib.testbed import Cluster, Machine, missing_requirements
from fleetd.trust import x509
from fleetd.trust.files import TrustFiles

ROUNDS = 30
PORT = 7443
REST_S = 15.0  # until fleetd is at rest
FLOOD_S = 20.0
FLOODERS, SILENT = 8, 64
MOST_SLOWER_MS, MOST_MORE_MIB, MOST_LATE_MS = 60.0, 3.0, 1000.0


def main() -> int:
    if missing := missing_requirements():
        print(f"contrib.bench.https boots machines: {'; '.join(missing)}", file=sys.stderr)
        return 2
    interrupt.end_on_first()
    try:
        with (
            Cluster(machines=[{"listen": f"https://:{PORT}"}]) as cluster,
            tempfile.TemporaryDirectory(prefix="fleet-https-") as home,
        ):
            figures = list(_measure(cluster, home))
    except KeyboardInterrupt:
        return 130
    print(f"\n{render_table(figures)}")
    return 0 if all(figure.holds for figure in figures) else 1


def _measure(cluster: Cluster, home: str) -> Iterator[Figure]:
    (machine,) = cluster.machines
    TrustFiles(machine.path("/var/lib/fleet/trust")).write_key(x509.make_authority(1, time.time()))
    machine.run(["systemctl", "restart", "fleet.service"])
    cluster.wait_ready()
    environment = {**os.environ, "HOME": home}
    by_socket = cluster.fleetctl_command(machine)
    cluster.wait_until("it has a certificate", lambda: _succeeds([*by_socket, "login"], environment))
    by_https = [by_socket[0], f"--endpoint=https://{machine.address}:{PORT}"]
    slower, base = [], []
    for _ in range(ROUNDS):
        base.append(_time_ms([*by_socket, "list-units"], environment))
        slower.append(_time_ms([*by_https, "list-units"], environment))
    limit_ms = min(base) + MOST_SLOWER_MS  # at best: what else runs here delays both
    yield Figure("list_https", "list-units over https, at best", "ms", (min(slower),), (min(base),), limit_ms)
    time.sleep(REST_S)
    with_https = process.resident_mib(machine)
    with _flood(machine.address):
        late = tuple(_health_ms(machine) for _ in _every(0.1, FLOOD_S))
    yield Figure(
        "flooded", "health on the socket under a flood of handshakes, at worst", "ms", (max(late),), late, MOST_LATE_MS
    )
    lost = machine.journal("fleet.service").count("registration is gone")
    yield Figure("lost", "registrations lost by then", "", (float(lost),), limit=0.0)
    machine.run(["sed", "-i", "/^listen=/d", "/etc/fleet/fleet.conf"])
    machine.run(["systemctl", "restart", "fleet.service"])
    cluster.wait_ready()
    for _ in range(2 * ROUNDS):
        _time_ms([*by_socket, "list-units"], environment)
    time.sleep(REST_S)
    without = process.resident_mib(machine)
    yield Figure(
        "memory_https",
        "memory of a fleetd that serves https",
        "MiB",
        (with_https,),
        (without,),
        without + MOST_MORE_MIB,
    )


def _succeeds(command: list[str], environment: dict[str, str]) -> bool:
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def _time_ms(command: list[str], environment: dict[str, str]) -> float:
    began = time.monotonic()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return (time.monotonic() - began) * 1000


def _every(interval_s: float, seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(interval_s)


def _health_ms(machine: Machine) -> float:
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30.0)
        client.connect(str(machine.api_socket))
        client.sendall(b"GET /health HTTP/1.1\r\nHost: fleet\r\nConnection: close\r\n\r\n")
        while client.recv(65536):
            pass
    return (time.monotonic() - began) * 1000


@contextmanager
def _flood(address: str) -> Iterator[None]:
    """Strangers who shake hands as fast as they can, and others who only begin to."""
    ended = threading.Event()
    counts = [0] * FLOODERS
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def shake_hands(number: int) -> None:
        while not ended.is_set():
            with suppress(OSError), socket.create_connection((address, PORT), timeout=5) as client:
                context.wrap_socket(client).close()
                counts[number] += 1

    def stay_silent() -> None:
        while not ended.is_set():
            with suppress(OSError), socket.create_connection((address, PORT), timeout=5) as client:
                client.sendall(b"\x16")
                client.settimeout(2.0)
                client.recv(1)

    threads = [threading.Thread(target=shake_hands, args=(number,)) for number in range(FLOODERS)]
    threads += [threading.Thread(target=stay_silent) for _ in range(SILENT)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        print(f"{sum(counts)} handshakes in {FLOOD_S:.0f} s, beside {SILENT} silent clients")


if __name__ == "__main__":
    sys.exit(main())
