"""The types of version 2 that are about what units announce; schema.py has them too, under the same names."""

import msgspec

# GET /fleet/v2/services


class Service(msgspec.Struct, frozen=True, omit_defaults=True):
    """One unit on one machine that answers to a name at a port. `failing` is why its check fails, '' while it passes:
    one that fails is not announced."""

    service: str
    unit: str
    machine: str
    address: str
    port: int
    protocol: str
    zone: str = ""
    failing: str = ""


class Services(msgspec.Struct, frozen=True):
    """The answer to GET /fleet/v2/services: by name, machine, unit and port. `index` is that of the answer, after which
    changes can be waited for."""

    services: tuple[Service, ...] = ()
    index: int = 0
