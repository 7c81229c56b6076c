"""What the acts share that show a template with three instances, of units/site, under traffic."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contrib.demo.act import CHECKOUT, Act, check
from contrib.demo.client import Client
from contrib.testbed import Machine

TEMPLATE = "site@.service"
SITES = ["site@1.service", "site@2.service", "site@3.service"]
PORT = 8090


class SiteAct(Act):
    """An act with the instances of the template, each a web server."""

    @contextmanager
    def copy_of_deploy(self) -> Iterator[None]:
        """Commands run in a folder of their own, which has a copy of units/site."""
        with tempfile.TemporaryDirectory() as folder:
            self.folder = Path(folder)
            shutil.copytree(CHECKOUT / "units/site", self.folder / "deploy")
            yield

    def client(self) -> Client:
        """A client of the servers on all machines."""
        return Client([f"http://{machine.address}:{PORT}/" for machine in self.cluster.machines])

    def sites(self) -> dict[str, Machine]:
        """Instance → the machine that it is on."""
        return {name: placed.machine for name, placed in self.witness.placed().items() if name in SITES}

    def request_all(self, expected: str) -> None:
        """Request the page of each instance: it begins with this text."""
        for name, machine in self.sites().items():
            number = name.removeprefix("site@").removesuffix(".service")
            self.request(machine, PORT, f"{expected} {number}, on {machine.name}")

    def check_requests(self, client: Client) -> None:
        check(not client.failures, client.count)
