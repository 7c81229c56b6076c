"""What a unit is to the cluster: its unit file, its target state, and the state that machines report of it."""

from enum import StrEnum

import msgspec

from fleetd.model.decoding import FORMAT, Count


class TargetState(StrEnum):
    """What a person wants of a unit; the same three words also name its current state (reference 2.1)."""

    INACTIVE = "inactive"
    LOADED = "loaded"
    LAUNCHED = "launched"


class Unit(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="format", tag=FORMAT):
    """One unit as a person handed it to the cluster. Stored under `units/<name>`.

    `text` is the rendered unit file. `generation` tells one wish of a person from the next (submit, start, stop,
    restart and replace each raise it): it is the store's revision of the last write, so it is never used twice, not
    even by a unit that is destroyed and created again. It is not part of the stored value. `restart_of`: a restart was
    asked for at this generation, so that what was started for it, or before, is to be started anew (0: none was).
    """

    name: str
    text: str
    target: TargetState = TargetState.INACTIVE
    generation: Count = 0
    restart_of: Count = 0


AT_REST = ("", "inactive", "failed")  # systemd's active states in which no process of a unit exists


class UnitState(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="format", tag=FORMAT):
    """What one machine reports of one unit. Stored under `states/<machine>/<unit>`, on the machine's lease.

    `load`, `active`, `sub` are systemd's own words. `hash` is of the content that this machine holds ('' when it holds
    none any more), `target` and `generation` are those of the placement that it has carried out last. `completed`
    says that a oneshot ran to its end with success. `error` is why the last step failed, in systemd's own words where
    systemd spoke, else ''. `result` is systemd's word for how the job ended that was asked for last, where it left the
    unit at rest (`done`, `condition`: one was not met, which is no failure, `assert`, `dependency`, …), or `refused`
    where systemd would not do it at all; `note` says more of what is no failure. `orphan`: the unit is only kept
    running, because a restored store does not know it or wants it gone; no order but one to run it is carried out.
    `refusal` is why the machine takes no unit of this name, as what the machine does ("has its own /etc/…"), else '';
    `lacks` is the unit that is missing there if that is why.
    `outdated`: the machine said so before the store was restored, and nothing since; it is not part of the stored
    value.
    """

    load: str = ""
    active: str = ""
    sub: str = ""
    hash: str = ""
    target: TargetState = TargetState.INACTIVE
    generation: Count = 0
    completed: bool = False
    error: str = ""
    result: str = ""
    note: str = ""
    orphan: bool = False
    refusal: str = ""
    lacks: str = ""
    outdated: bool = False

    @property
    def runs(self) -> bool:
        """Whether processes of the unit may exist (systemd's active states but `inactive` and `failed`)."""
        return self.active not in AT_REST
