"""Secrets of simulated clusters: each that a unit names is there, and nothing is in any of them."""

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path

from fleetd.model.names import is_template
from fleetd.model.requirements import requirements_of
from fleetd.model.secret import Secret, SecretVersion
from fleetd.model.unit import Unit
from fleetd.trust.sealing_process import Sealing, SealingFailed
from fleetd.trust.sealing_wire import Answer, Request, Sealed, ShareAll


def seal_key_of(machine: str) -> str:
    """What stands for the public key of this machine."""
    return base64.b64encode(hashlib.sha256(machine.encode()).digest()).decode()


def pretend_sealing(directory: Path) -> Sealing:
    """What a machine seals with, which hands every key of a secret on as it is."""
    return Sealing(directory, _pretend)


async def _pretend(request: Request) -> Answer:
    if not isinstance(request, ShareAll):  # each machine has its key, and nobody sets a secret
        raise SealingFailed("nothing is encrypted in a simulated cluster")
    return Answer(tuple(Sealed(keys=dict.fromkeys(item.recipients, item.key)) for item in request.items))


def needed_secrets(units: Iterable[Unit]) -> set[str]:
    """The secrets that these units name."""
    wanted = (requirements_of(unit.content, unit.name).secrets for unit in units if not is_template(unit.name))
    return {name for names in wanted for name in names}


def make_secret(openers: Iterable[str]) -> Secret:
    """A secret that the machines with these public keys can open."""
    return Secret((SecretVersion(1, b"box", dict.fromkeys(openers, b"key"), 1, by="simulate"),))
