"""`python -m contrib.bench.dns`: how quickly fleet-dns answers, asked by dnsperf on this machine.

An answer of ten instances takes 0.3 ms at the median, and one core gives 20,000 a second. It ends with 1 if not.
"""

import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contrib.bench.figure import Figure, render_table
from contrib.testbed.etcd import free_port
from fleetd.model.announcement import Announcement
from fleetd.model.name_table import NameTable, encode

INSTANCES = 10
ROUNDS = 3
SECONDS = 5
QUESTION = "_web._tcp.fleet.internal SRV\n"
MOST_MS, LEAST_A_SECOND = 0.3, 20_000


def main() -> int:
    if shutil.which("dnsperf") is None:
        print("contrib.bench.dns needs dnsperf (contrib/setup)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as directory, _serve(Path(directory)) as (port, pid):
        figures = list(_measure(Path(directory), port, pid))
    print(f"\n{render_table(figures)}")
    return 0 if all(figure.holds for figure in figures) else 1


@contextmanager
def _serve(directory: Path) -> Iterator[tuple[int, int]]:
    """fleet-dns with ten instances: its port, and its process."""
    port = free_port()
    announcements = tuple(
        Announcement("web", f"web@{number}.service", f"{number:032x}", f"10.0.0.{number}", 8000 + number, "tcp")
        for number in range(1, INSTANCES + 1)
    )
    table = NameTable("fleet.internal", (f"127.0.0.1:{port}",), f"{1:032x}", announcements=announcements)
    (directory / "names").write_bytes(encode(table))
    with subprocess.Popen([sys.executable, "-m", "fleetd.dns", os.fspath(directory / "names")]) as process:
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.05)
            yield port, process.pid
        finally:
            process.terminate()


def _measure(directory: Path, port: int, pid: int) -> Iterator[Figure]:
    (directory / "questions").write_text(QUESTION)
    command = ("dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", os.fspath(directory / "questions"), "-e")
    cost_us, rates = [], []
    for _ in range(ROUNDS):
        before = _processor_s(pid)
        report = subprocess.run([*command, "-l", str(SECONDS)], capture_output=True, text=True, check=True).stdout
        (completed,) = re.findall(r"Queries completed:\s+([0-9]+)", report)
        (rate,) = re.findall(r"Queries per second:\s+([0-9.]+)", report)
        rates.append(float(rate))
        cost_us.append((_processor_s(pid) - before) / int(completed) * 1e6)
    yield Figure("dns_ms", "one question, asked alone", "ms", tuple(_ask_alone(port)), limit=MOST_MS)
    yield Figure("dns_cost", "processor time of an answer", "us", tuple(cost_us), limit=1e6 / LEAST_A_SECOND)
    yield Figure("dns_rate", "thousands of answers a second, beside dnsperf", "", tuple(rate / 1000 for rate in rates))
    status = Path(f"/proc/{pid}/status").read_text()
    yield Figure("dns_memory", "memory", "MiB", (int(re.findall(r"VmRSS:\s+([0-9]+)", status)[0]) / 1024,))


def _ask_alone(port: int) -> Iterator[float]:
    """Medians of milliseconds until the answer, of a client that waits for each."""
    labels = QUESTION.split()[0].split(".")
    name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
    question = b"\0\1\1\0\0\1" + bytes(6) + name + b"\0\x21\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(5.0)
        udp.connect(("127.0.0.1", port))
        for _ in range(ROUNDS):
            took = []
            for _ in range(1000):
                began = time.perf_counter()
                udp.send(question)
                udp.recv(4096)
                took.append((time.perf_counter() - began) * 1000)
            yield statistics.median(took)


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
