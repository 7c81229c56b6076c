"""Traffic without end: units are started, stopped and destroyed while machines and stores fail.

It records what was acknowledged, so that a test can compare the cluster with it afterwards.
"""

import json
import threading
from itertools import count
from subprocess import CompletedProcess, TimeoutExpired

from contrib.testbed.machine import Machine
from tests.cluster.operator import SLEEPER, Operator

LAUNCHED, LOADED, GONE = "launched", "loaded", ""
PATIENCE_S = 60.0  # no command may take longer, whatever the state of the store
PAUSE_S = 0.5


class Traffic:
    """While entered, repeatedly starts a unit, stops an older one and destroys a still older one.

    `operations`: the last acknowledged target of each unit. `doubtful`: units whose last operation was refused, with
    the message; it may have been done nevertheless.
    """

    def __init__(self, operator: Operator, on: Machine | None = None) -> None:
        self.operations: dict[str, str] = {}
        self.doubtful: dict[str, str] = {}
        self._operator = operator
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
        """Wait until an operation was acknowledged: on a busy machine the first command takes time."""
        self._operator.cluster.wait_until("the first operation is acknowledged", lambda: bool(self.operations))

    def wait_until_done(self, timeout_s: float = 60.0) -> None:
        """Wait until acknowledged operations are in effect, and refused ones are in effect wholly or not at all."""
        try:
            self._operator.cluster.wait_until(
                "each acknowledged operation is in effect", lambda: not self._differences(), timeout_s
            )
        except TimeoutError as error:
            raise AssertionError(f"{'; '.join(self._differences())}; {error}") from None

    def _differences(self) -> list[str]:
        """Differences from what was acknowledged, as text."""
        names = [*self.operations, *self.doubtful]
        wanted = self._target_states()
        running = list(self._operator.processes(names))
        lost = [
            f"{unit} was acknowledged as {operation or 'gone'}, but its target is {wanted.get(unit, GONE) or 'gone'}"
            for unit, operation in self.operations.items()
            if wanted.get(unit, GONE) != operation
        ]
        halves = []
        for unit in names:
            allocations = [machine for machine, found in running if found == unit]
            if len(allocations) != (wanted.get(unit, GONE) == LAUNCHED):
                halves.append(
                    f"the target of {unit} is {wanted.get(unit, GONE) or 'gone'}, but it runs on {allocations}"
                )
        return lost + halves

    def _target_states(self) -> dict[str, str]:
        """Unit → its target state in the cluster."""
        listed = self._operator.cluster.fleetctl("list-unit-files", "--output=json", "--fields=unit,dstate")
        return {row["unit"]: row["dstate"] for row in json.loads(listed.stdout)}

    def _run(self) -> None:
        try:
            for number in count():
                self._request(f"traffic-{number}.service", LAUNCHED)
                self._request(f"traffic-{number - 2}.service", LOADED)
                self._request(f"traffic-{number - 4}.service", GONE)
                if self._ended.wait(PAUSE_S):
                    return
        except Exception as error:  # raised where the traffic ends
            self._failure = error

    def _request(self, unit: str, operation: str) -> None:
        if operation is not LAUNCHED and unit not in self.operations:
            return
        try:
            result = self._command(unit, operation)
        except LookupError:
            return  # all machines are off: the request reached none of them
        if result.returncode == 0:
            self.operations[unit] = operation
            self.doubtful.pop(unit, None)
        else:
            assert result.stderr.strip(), f"{result.args} failed without a message"
            assert "Traceback" not in result.stderr, result.stderr
            self.operations.pop(unit, None)
            self.doubtful[unit] = result.stderr

    def _command(self, unit: str, operation: str) -> CompletedProcess[str]:
        fleetctl = self._operator.cluster.fleetctl
        try:
            if operation is LAUNCHED:
                (path,) = self._operator.write({unit: SLEEPER})
                return fleetctl("start", "--no-block", path, on=self._on, timeout_s=PATIENCE_S, check=False)
            verb = "stop" if operation is LOADED else "destroy"
            return fleetctl(verb, "--no-block", unit, on=self._on, timeout_s=PATIENCE_S, check=False)
        except TimeoutExpired as error:
            raise AssertionError(f"the command does not end: {error}") from error
