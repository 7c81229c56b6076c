"""What a unit is to the cluster: its target state, and what its [X-Fleet] section requires of a machine.

Here live the values that describe one unit by itself. Where a unit may go is schedule.py's matter, how its text is
read unitfile.py's, how its name is taken apart names.py's.
"""

from enum import StrEnum

import msgspec


class TargetState(StrEnum):
    """What a person wants of a unit; the same three words also name its current state (reference 2.1)."""

    INACTIVE = "inactive"
    LOADED = "loaded"
    LAUNCHED = "launched"


class Unit(msgspec.Struct, frozen=True, omit_defaults=True):
    """One unit as a person handed it to the cluster. Stored under `units/<name>`.

    `text` is the rendered unit file. `generation` tells one wish of a person from the next (submit, start, stop,
    restart and replace each raise it): it is the store's revision of the last write, so it is never used twice, not
    even by a unit that is destroyed and created again. It is not part of the stored value.
    """

    name: str
    text: str
    target: TargetState = TargetState.INACTIVE
    generation: int = 0


class UnitState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one machine reports of one unit. Stored under `states/<machine>/<unit>`, on the machine's lease.

    `load`, `active`, `sub` are systemd's own words. `hash` is of the content that this machine holds ('' when it holds
    none any more), `target` and `generation` are those of the placement that it has carried out last. `completed`
    says that a oneshot ran to its end with success. `error` is why the last step failed, in systemd's own words where
    systemd spoke, else ''.
    """

    load: str = ""
    active: str = ""
    sub: str = ""
    hash: str = ""
    target: TargetState = TargetState.INACTIVE
    generation: int = 0
    completed: bool = False
    error: str = ""

    @property
    def runs(self) -> bool:
        """Whether processes of the unit may exist (systemd's active states but `inactive` and `failed`)."""
        return self.active not in ("", "inactive", "failed")
