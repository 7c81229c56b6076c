"""What the acts of the demo have in common: they run commands, show them with their output, and check claims.

Claims are checked at their source (witness.py): the machine's own systemd, processes, the network.
"""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from contrib.demo import stage
from contrib.demo.command import run
from contrib.demo.witness import Witness, fetch
from contrib.testbed import Cluster, Machine

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


class StepFailed(Exception):
    """A step of the demo did not happen."""


def check(holds: bool, claim: str) -> None:
    """Show a claim that holds. Raises StepFailed if it does not."""
    if not holds:
        raise StepFailed(f"this does not hold: {claim}")
    stage.confirm(claim)


class Act:
    """One act on a cluster whose machines all run fleetd with `config`. Its commands run in `folder`; `programs` are
    those that it needs on this host beside the testbed's."""

    folder = CHECKOUT
    config: ClassVar[Mapping[str, str]] = {}
    programs: ClassVar[Sequence[str]] = ()

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.witness = Witness(cluster)

    def play(self) -> None:
        """Play all steps in order. Raises StepFailed."""
        raise NotImplementedError

    def run(self, command: str, status: int = 0, timeout_s: float = PATIENCE_S) -> str:
        """Show and run a command. Returns its output, of stdout and stderr. Raises StepFailed if it ends with another
        exit status."""
        stage.prompt(command)
        path = f"{sys.prefix}/bin{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        environment = {**os.environ, "PATH": path, "FLEETCTL_ENDPOINT": self.cluster.endpoint()}
        done = run(shlex.split(command), folder=self.folder, environment=environment, timeout_s=timeout_s)
        if done.returncode != status:
            raise StepFailed(f"`{command}` ended with {done.returncode}, not {status}\n{self.cluster.journals()}")
        return done.stdout

    def request(self, machine: Machine, port: int, expected: str) -> None:
        """As `ask`. Raises StepFailed if the answer is another than `expected`."""
        if self.ask(machine, port) != expected:
            raise StepFailed(f"http://{machine.address}:{port}/ should have answered: {expected}")

    def ask(self, machine: Machine, port: int) -> str:
        """Show a request to a web server and its answer, and return that. Raises StepFailed if there is none."""
        url = f"http://{machine.address}:{port}/"
        stage.prompt(f"curl {url}")
        try:
            answer = fetch(url)
        except OSError as error:
            raise StepFailed(f"{url} does not answer: {error}") from error
        stage.show(answer)
        return answer

    def wait_for(self, claim: str, holds: Callable[[], bool]) -> None:
        """Wait until the claim holds, then show it. Raises StepFailed."""
        try:
            self.cluster.wait_until(claim, holds, PATIENCE_S)
        except TimeoutError as error:
            raise StepFailed(str(error)) from error
        stage.confirm(claim)
