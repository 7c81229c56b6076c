"""Logs of a worker and of servers without SSH: what is followed, and long answers, come as streams."""

import subprocess
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Self

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from tests.cluster.test_workers import SERVER, Workers

# Logs three lines, and then each file that appears as /root/said.
TALKER = (
    "[Service]\nExecStart=/bin/sh -c 'for n in 1 2 3; do echo line $n; done; "
    "while sleep 0.2; do [ ! -e /root/said ] || { cat /root/said; rm /root/said; }; done'\n"
)
TALKATIVE = (
    "[Service]\nExecStart=/bin/sh -c 'seq 3000 | while read n; do echo $n $(echo $n | sha256sum); done; "
    "exec sleep infinity'\nLogRateLimitIntervalSec=0\n"
)
ON_WORKER = "[X-Fleet]\nMachineMetadata=role=worker\n"
LOG_UNIT = "talker.service"
STREAMS = {**SERVER, "peer_listen": ":7444"}


class Following:
    """A `fleetctl journal -f` at a server, whose output is read as it comes."""

    def __init__(self, workers: Workers, server: Machine, *arguments: str) -> None:
        command = [*workers.cluster.fleetctl_command(server), "journal", "-f", "--output=cat", *arguments]
        self._cluster = workers.cluster
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._reading = [
            threading.Thread(target=_read, args=each)
            for each in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        ]
        for thread in self._reading:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def wait_for(self, line: str) -> None:
        self._cluster.wait_until(f"{line!r} is shown, of {self.errors}", lambda: line in self.lines)

    def wait_for_error(self, text: str) -> None:
        self._cluster.wait_until(f"{text!r} is said", lambda: any(text in line for line in self.errors))

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        for thread in self._reading:
            thread.join()


def _read(stream: IO[str], lines: list[str]) -> None:
    for line in stream:
        lines.append(line.rstrip("\n"))


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with Cluster(machines=[STREAMS, STREAMS, {"agent_ttl": "3s"}, {}], config={"agent_ttl": "3s"}) as cluster:
        made = Workers(cluster, tmp_path_factory.mktemp("units"))
        made.servers.pop()  # m3 has no certificates
        made.give_authority()
        made.join()
        yield made


def start(workers: Workers, text: str, name: str = LOG_UNIT) -> None:
    (workers.folder / name).write_text(text)
    workers.fleetctl("start", "--replace", str(workers.folder / name))


def journalctls(machine: Machine) -> int:
    """How many logs are read on the machine now."""
    return len(machine.run(["pgrep", "-x", "journalctl"], check=False).stdout.split())


def say(machine: Machine, text: str) -> None:
    """Have the unit log this."""
    machine.run(["sh", "-c", f"echo '{text}' > /root/new && mv /root/new /root/said"])


def test_logs_and_state_of_a_worker_are_read_through_a_server(workers: Workers) -> None:
    start(workers, TALKER + ON_WORKER)
    workers.cluster.wait_until("all is in the journal", lambda: "line 3" in workers.worker.journal(LOG_UNIT))
    for server in workers.servers:
        shown = workers.fleetctl("journal", "--output=cat", "-n", "100", "talker", on=server)
        lines = [line for line in shown.stdout.splitlines() if line.startswith("line ")]
        assert (lines[-3:], shown.stderr) == (["line 1", "line 2", "line 3"], "")
        status = workers.fleetctl("status", "talker", on=server)
        assert (status.stderr, f"Main PID: {workers.worker.main_pid(LOG_UNIT)}\n" in status.stdout) == ("", True)


def test_a_long_answer_comes_whole(workers: Workers) -> None:
    start(workers, TALKATIVE + ON_WORKER, "talkative.service")
    workers.cluster.wait_until(
        "all is in the journal",
        lambda: "\n3000 " in workers.worker.run(["journalctl", "-o", "cat", "-u", "talkative"]).stdout,
    )
    shown = workers.fleetctl("journal", "--output=cat", "-n", "1000", "talkative", on=workers.servers[0])
    assert shown.stderr == ""
    assert [line.split()[0] for line in shown.stdout.splitlines()] == [str(number) for number in range(2001, 3001)]
    workers.fleetctl("destroy", "talkative.service")


def test_a_log_is_followed_until_the_client_goes_away(workers: Workers) -> None:
    start(workers, TALKER + ON_WORKER)
    with Following(workers, workers.servers[1], "-n", "20", "talker") as following:
        following.wait_for("line 3")
        for number in range(3):
            say(workers.worker, f"later {number}")
            following.wait_for(f"later {number}")
        assert [line for line in following.lines if "later" in line] == ["later 0", "later 1", "later 2"]
        assert journalctls(workers.worker) == 1
    workers.cluster.wait_until("nobody reads the journal", lambda: journalctls(workers.worker) == 0)
    workers.cluster.wait_until(
        "the request is deleted",
        lambda: not workers.cluster.etcd.etcdctl("get", "--keys-only", "--prefix", "/fleet-requests/").strip(),
    )


def test_a_journalctl_that_is_killed_ends_what_is_followed(workers: Workers) -> None:
    start(workers, TALKER + ON_WORKER)
    with Following(workers, workers.servers[0], "-n", "20", "talker") as following:
        following.wait_for("line 3")
        workers.worker.run(["pkill", "-KILL", "-x", "journalctl"])
        assert following.process.wait(60) == 255
        following.wait_for_error(f"The log of machine {workers.worker.id[:8]}")
        assert "journalctl fails: exit status -9" in following.errors[-1]


def test_a_worker_that_is_cut_off_while_it_streams_is_named_and_the_others_go_on(workers: Workers) -> None:
    start(workers, TALKER + "[X-Fleet]\nGlobal=true\n")
    asked, other = workers.servers
    running = [asked, other, workers.worker]
    workers.cluster.wait_until("it runs everywhere", lambda: all(each.main_pid(LOG_UNIT) for each in running))
    with Following(workers, asked, "-n", "20", "talker") as following:
        for machine in running:
            following.wait_for(f"{place(machine)}: line 3")
        workers.worker.cut_network()
        try:
            say(workers.worker, "unheard")
            following.wait_for_error(f"The log of machine {place(workers.worker)} is not followed any more: its stream")
            say(other, "heard")
            following.wait_for(f"{place(other)}: heard")
            assert following.process.poll() is None
            workers.cluster.wait_until("it gives up", lambda: journalctls(workers.worker) == 0)
        finally:
            workers.worker.heal_network()
    workers.wait_registered()
    workers.fleetctl("destroy", LOG_UNIT)  # else the next one is followed where it ran before, too
    workers.cluster.wait_until("it runs nowhere", lambda: not any(each.main_pid(LOG_UNIT) for each in running))


def test_a_machine_without_certificates_says_why_it_streams_nothing(workers: Workers) -> None:
    plain = workers.cluster.machines[2]
    start(workers, TALKER + f"[X-Fleet]\nMachineID={plain.id}\n")
    with Following(workers, workers.servers[0], "talker") as following:
        following.wait_for_error(
            f"Using SSH for {place(plain)}: it has no certificate with which it could send a stream"
        )
        assert following.process.wait(60) == 255


def test_a_server_without_peer_listen_says_so(workers: Workers) -> None:
    start(workers, TALKER + ON_WORKER)
    with Following(workers, workers.cluster.machines[2], "talker") as following:
        following.wait_for_error(
            "machines send them to the addresses of peer_listen= in its fleet.conf, and it has none"
        )
        assert following.process.wait(60) == 255


def place(machine: Machine) -> str:
    return f"{machine.id[:8]}.../{machine.address}"
