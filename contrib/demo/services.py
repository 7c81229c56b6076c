"""The act `services`: containers that HAProxy finds by name are changed, moved and killed under traffic."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from contrib.demo import stage
from contrib.demo.act import CHECKOUT, PATIENCE_S, Act, StepFailed, check
from contrib.testbed import Machine
from contrib.testbed.registry import ContainerRegistry
from contrib.testbed.requests import PER_SECOND, Requests

PORT = 8080  # of HAProxy
WEBS = ["web@1.service", "web@2.service", "web@3.service"]
IMAGE = "library/busybox:1.36"
ROW_S = 2  # of requests, that a line of the table tells of


class Services(Act):
    """units/deploy under traffic: a client asks HAProxy on one machine a hundred times a second."""

    config: ClassVar = {"dns_listen": "127.0.0.1:8600"}
    programs = ("docker-registry", "haproxy", "podman", "skopeo")

    def play(self) -> None:
        ContainerRegistry(self.cluster, self.cluster.machines[0]).push(IMAGE, "")
        with tempfile.TemporaryDirectory() as folder:
            self.folder = Path(folder)
            shutil.copytree(CHECKOUT / "units/deploy", self.folder / "deploy")
            self.apply()
            self.change()
            self.drain()
            self.kill()
            self.see_locks()

    def apply(self) -> None:
        stage.explain(
            "A folder: three instances of a container that announce a name, and HAProxy on each machine, which asks "
            "fleet's DNS for that name."
        )
        self.run("tail -n 19 deploy/web@.container")
        self.run("fleetctl apply deploy")
        self.wait_for("all three are announced, and HAProxy has found them", self._is_whole)
        self.run("fleetctl services web")
        self.ask(self._asked, PORT)

    def change(self) -> None:
        stage.explain(
            f"A client asks HAProxy {PER_SECOND} times a second, and meanwhile another version is rolled out: one "
            "instance after the other, each when its name has been withdrawn for three seconds."
        )
        self.run("sed -i 's/Version 1/Version 2/' deploy/web@.container")
        with self._traffic():
            self.run("fleetctl apply deploy")
        check("Version 2" in self.ask(self._asked, PORT), "it is the second version that answers")

    def drain(self) -> None:
        machine = self.witness.machine_of(WEBS[2])
        stage.explain(f"{machine.name} is emptied. Its instance goes to another machine, with the same name.")
        with self._traffic():
            self.run(f"fleetctl drain {machine.id[:8]}")
        self.run("fleetctl services web")
        self.run(f"fleetctl uncordon {machine.id[:8]}")

    def kill(self) -> None:
        machine = self.witness.machine_of(WEBS[0])
        stage.explain(
            f"A container is killed on {machine.name}. What it is answering at that moment may fail; HAProxy asks "
            "another one from then on, and systemd starts it again."
        )
        before = machine.main_pid(WEBS[0])
        with self._traffic(in_flight=2):
            stage.prompt(f"podman kill --signal=KILL systemd-web_1    # on {machine.name}")
            machine.run(["podman", "kill", "--signal=KILL", "systemd-web_1"])
            self.wait_for("it runs again", lambda: machine.main_pid(WEBS[0]) not in (0, before))
        self.run("fleetctl services web")

    def see_locks(self) -> None:
        stage.explain("The folder has a singleton, too, which holds a lock while it runs: there are never two.")
        self.wait_for("the lock is held", lambda: "held" in self.cluster.fleetctl("locks").stdout)
        self.run("fleetctl locks")

    @contextmanager
    def _traffic(self, in_flight: int = 0) -> Iterator[None]:
        """Send requests until all instances answer again, show what has answered them, and check that none has failed
        but `in_flight`, which may have been under way."""
        with Requests(self._asked.address, PORT) as requests:
            yield
            self._wait(self._is_whole)
        stage.show(render_answers(requests))
        failed = len(requests.failures)
        claim = f"{requests.count} requests, {failed or 'none'} failed, the slowest took {requests.longest_s:.2f} s"
        check(failed <= in_flight, claim)

    @property
    def _asked(self) -> Machine:
        """The machine whose HAProxy is asked."""
        return self.cluster.machines[1]

    def _is_whole(self) -> bool:
        """True if a few requests are answered by all instances."""
        with Requests(self._asked.address, PORT) as requests:
            self._wait(lambda: requests.count >= 4 * len(WEBS))
        found = {instance_of(answer) for _, answer in requests.answered}
        return len(found) == len(WEBS) and not requests.failures

    def _wait(self, holds: Callable[[], bool]) -> None:
        try:
            self.cluster.wait_until("all instances answer", holds, PATIENCE_S)
        except TimeoutError as error:
            raise StepFailed(str(error)) from error


def instance_of(answer: str) -> str:
    """The instance that gave this answer, as "Version 1, instance 2 on m3"."""
    return answer.partition("instance ")[2].partition(" ")[0]


def render_answers(requests: Requests) -> str:
    """A table: who has answered the requests of each two seconds."""
    rows: dict[int, dict[str, str]] = {}
    for sent_s, answer in sorted(requests.answered):
        version, _, place = answer.partition(", instance ")
        rows.setdefault(int(sent_s // ROW_S), {})[place.split()[0]] = f"{version} on {place.split()[-1]}"
    instances = sorted({each for row in rows.values() for each in row})
    names = "  ".join(f"instance {each:<9}" for each in instances)
    lines = [f"{'seconds':>8}  {'requests':>8}  {'failed':>6}  {names}".rstrip()]
    for number, row in sorted(rows.items()):
        count = sum(sent_s // ROW_S == number for sent_s, _ in requests.answered)
        failed = sum(sent_s // ROW_S == number for sent_s, _ in requests.failures)
        when = f"{number * ROW_S}–{(number + 1) * ROW_S}"  # noqa: RUF001
        cells = "  ".join(f"{row.get(each, '–'):<18}" for each in instances)  # noqa: RUF001
        lines.append(f"{when:>8}  {count + failed:>8}  {failed:>6}  {cells}".rstrip())
    return "\n".join(lines) + "\n"
