"""Secret= in [X-Fleet], beside the LoadCredential= by which systemd asks for it: what a unit may say of secrets."""

import re
from collections.abc import Iterable, Sequence

from fleetd.model.constraints import InvalidRequirements, requirement_values
from fleetd.model.secret import CREDENTIALS_SOCKET, refuse_secret_name
from fleetd.model.unit_option import UnitOption

MAX_SECRETS = 32  # of one unit
_SPECIFIER = re.compile("%[nNpi]")


def secret_names(options: Iterable[UnitOption]) -> tuple[str, ...]:
    """The names in Secret=, each once, specifiers not expanded."""
    return tuple(
        dict.fromkeys(name for value in requirement_values(options).get("Secret", ()) for name in value.split())
    )


def _credentials(options: Iterable[UnitOption]) -> tuple[str, ...]:
    """The names of the credentials that come from fleet's socket."""
    found: dict[str, None] = {}
    for option in options:
        if option.name == "LoadCredential":
            name, colon, path = option.value.partition(":")
            if not option.value:
                found.clear()
            elif colon and path.strip() == CREDENTIALS_SOCKET:
                found[name.strip()] = None
    return tuple(found)


def validate_secrets(options: Sequence[UnitOption]) -> None:
    """Raises InvalidRequirements for names that no secret has, and for a credential of fleet's socket that is no secret
    of the unit: systemd could not start it."""
    names = secret_names(options)
    if len(names) > MAX_SECRETS:
        raise InvalidRequirements(f"Secret has {len(names)} values, and at most {MAX_SECRETS} are allowed")
    for name in names:
        if refusal := refuse_secret_name(_SPECIFIER.sub("x", name)):
            raise InvalidRequirements(f"Secret: {refusal}")
    for name in _credentials(options):
        if name not in names:
            raise InvalidRequirements(
                f"LoadCredential={name}:{CREDENTIALS_SOCKET} asks for a secret that the unit does not name: add "
                f"Secret={name} to [X-Fleet]"
            )


def advise_on_secrets(options: Sequence[UnitOption]) -> list[str]:
    """Warnings about secrets that reach no service."""
    asked = _credentials(options)
    return [
        f"Secret={name} reaches no process: add LoadCredential={name}:{CREDENTIALS_SOCKET} to [Service]"
        for name in secret_names(options)
        if name not in asked
    ]
