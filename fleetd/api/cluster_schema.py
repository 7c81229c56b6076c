"""The types of version 2 that are about machines and the cluster; schema.py has them too, under the same names."""

import msgspec

# PUT /fleet/v2/machines/{machine}/cordon


class CordonRequest(msgspec.Struct, frozen=True):
    """The body: why, on one line, for people."""

    why: str = ""


# GET and PATCH /fleet/v2/settings


class Setting(msgspec.Struct, frozen=True, omit_defaults=True):
    """A setting of the cluster, with its value as fleet.conf has it.

    `source` is `default`, `fleet.conf` (of `machine`: the leader, or the one whose API answers, as the setting has it)
    or `cluster`: set for the cluster, by whom ('' if not told) and when (Unix time, s).
    """

    name: str
    value: str
    source: str
    machine: str = ""
    by: str = ""
    at: float = 0.0


class Settings(msgspec.Struct, frozen=True):
    """All settings of the cluster, by name."""

    settings: tuple[Setting, ...] = ()


class SettingChanges(msgspec.Struct, frozen=True):
    """The body: values by name, as fleet.conf has them, and the names of those for which fleet.conf is to count."""

    set: dict[str, str] = {}
    unset: tuple[str, ...] = ()


# POST /fleet/v2/leave, over the machine's own unix socket: leave the cluster. Clients repeat it until `left`.


class Leaving(msgspec.Struct, frozen=True, omit_defaults=True):
    """Progress of this machine leaving the cluster, and the units that it still waits for."""

    left: bool = False
    waiting_for: tuple[str, ...] = msgspec.field(name="waitingFor", default=())
