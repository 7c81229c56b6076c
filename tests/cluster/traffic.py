"""People who never stop: units started, stopped and destroyed while machines and stores break beneath them.

What was acknowledged is noted, so that a test can hold the cluster to it when it is well again.
"""

import json
import threading
from itertools import count
from subprocess import CompletedProcess, TimeoutExpired

from contrib.testbed.machine import Machine
from tests.cluster.operator import SLEEPER, Operator

LAUNCHED, LOADED, GONE = "launched", "loaded", ""
PATIENCE_S = 60.0  # no command may take longer, whatever has become of the store
PAUSE_S = 0.5


class Traffic:
    """Starts a unit, stops an older one, destroys a still older one, again and again, as long as it is entered.

    `operations` is what was last acknowledged, by unit; `doubtful` are units whose last operation was refused, with the
    message: it may have been done all the same.
    """

    def __init__(self, person: Operator, on: Machine | None = None) -> None:
        self.operations: dict[str, str] = {}
        self.doubtful: dict[str, str] = {}
        self._person = person
        self._on = on
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._failure:
            raise self._failure

    def wait_until_begun(self) -> None:
        """Until something was acknowledged: on a busy machine the first command takes its time."""
        self._person.cluster.wait_until("the first operation is acknowledged", lambda: bool(self.operations))

    def wait_until_done(self, timeout_s: float = 60.0) -> None:
        """Until everything that was acknowledged is so, and everything that was refused was done or not, but wholly."""
        try:
            self._person.cluster.wait_until("all is as it was acknowledged", lambda: not self._undone(), timeout_s)
        except TimeoutError as error:
            raise AssertionError(f"{'; '.join(self._undone())}; {error}") from None

    def _undone(self) -> list[str]:
        """What is not as it should be, in words."""
        names = [*self.operations, *self.doubtful]
        wanted = self._wanted()
        running = list(self._person.processes(names))
        lost = [
            f"{unit} was acknowledged to be {operation or 'gone'}, but is to be {wanted.get(unit, GONE) or 'gone'}"
            for unit, operation in self.operations.items()
            if wanted.get(unit, GONE) != operation
        ]
        halves = []
        for unit in names:
            allocations = [machine for machine, found in running if found == unit]
            if len(allocations) != (wanted.get(unit, GONE) == LAUNCHED):
                halves.append(
                    f"{unit} is to be {wanted.get(unit, GONE) or 'gone'}, but runs on {allocations or 'no machine'}"
                )
        return lost + halves

    def _wanted(self) -> dict[str, str]:
        """Unit → the target state that the cluster has for it."""
        listed = self._person.cluster.fleetctl("list-unit-files", "--output=json", "--fields=unit,dstate")
        return {row["unit"]: row["dstate"] for row in json.loads(listed.stdout)}

    def _run(self) -> None:
        try:
            for number in count():
                self._ask(f"traffic-{number}.service", LAUNCHED)
                self._ask(f"traffic-{number - 2}.service", LOADED)
                self._ask(f"traffic-{number - 4}.service", GONE)
                if self._ended.wait(PAUSE_S):
                    return
        except Exception as error:  # it is raised where the traffic ends
            self._failure = error

    def _ask(self, unit: str, operation: str) -> None:
        if operation is not LAUNCHED and unit not in self.operations:
            return
        try:
            result = self._command(unit, operation)
        except LookupError:
            return  # all machines are off: nothing was asked
        if result.returncode == 0:
            self.operations[unit] = operation
            self.doubtful.pop(unit, None)
        else:
            assert result.stderr.strip(), f"{result.args} failed without a word"
            assert "Traceback" not in result.stderr, result.stderr
            self.operations.pop(unit, None)
            self.doubtful[unit] = result.stderr

    def _command(self, unit: str, operation: str) -> CompletedProcess[str]:
        fleetctl = self._person.cluster.fleetctl
        try:
            if operation is LAUNCHED:
                (path,) = self._person.write({unit: SLEEPER})
                return fleetctl("start", "--no-block", path, on=self._on, timeout_s=PATIENCE_S, check=False)
            verb = "stop" if operation is LOADED else "destroy"
            return fleetctl(verb, "--no-block", unit, on=self._on, timeout_s=PATIENCE_S, check=False)
        except TimeoutExpired as error:
            raise AssertionError(f"no end of it: {error}") from error
