"""What a unit is to the cluster: its content, its target state, and the state that machines report of it."""

from enum import StrEnum

import msgspec

from fleetd.model.content import Content, DropIn
from fleetd.model.decoding import FORMAT, Count


class TargetState(StrEnum):
    """What a user wants of a unit. The same three words name its current state, as in CoreOS fleet."""

    INACTIVE = "inactive"
    LOADED = "loaded"
    LAUNCHED = "launched"


class Unit(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="format", tag=FORMAT):
    """One unit as a user submitted it. Stored under `units/<name>`.

    `text` is the rendered unit file. `generation` is the store's revision of the last write, which every submit, start,
    stop, restart and replace raises; it is never used twice, not even by a unit that is destroyed and created again,
    and is not part of the stored value. `restart_of`: a restart was requested at this generation, so whatever was
    started for this or an earlier generation is restarted (0: none was requested). `dropins` are in order of name; an
    instance carries those of its template, too. `set` is the folder that the unit belongs to, `rollout` the id of the
    request whose changes reach the unit's group one member after the other ('': at once). `by` is who wrote the unit
    last, with the remark `note`, `at` this Unix time.
    """

    name: str
    text: str
    target: TargetState = TargetState.INACTIVE
    generation: Count = 0
    restart_of: Count = 0
    dropins: tuple[DropIn, ...] = ()
    set: str = ""
    rollout: str = ""
    by: str = ""
    note: str = ""
    at: float = 0.0

    @property
    def content(self) -> Content:
        """The unit file with its drop-ins."""
        return Content(self.text, self.dropins)


LAST_LINES = "last lines:"  # begins the log lines of a failure
AT_REST = ("", "inactive", "failed")  # systemd's active states in which no process of a unit exists


def without_log_lines(failure: str) -> str:
    """The cause of a failure, on one line."""
    return failure.partition(f"; {LAST_LINES}")[0]


class Proof(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A machine's answer to a placement that asks whether its unit is healthy: proven, or why not.

    It holds for this generation, and for the content of this hash. `invocation` is systemd's InvocationID of the run
    that was proven ('': a oneshot that has completed and that systemd has forgotten, or a unit that is not to run).
    `failed` is why the unit is taken to be unhealthy, with its last log lines, '' if it is proven.
    """

    generation: Count
    hash: str
    invocation: str = ""
    failed: str = ""

    @property
    def cause(self) -> str:
        """Why the unit is taken to be unhealthy, without log lines."""
        return without_log_lines(self.failed)


class UnitState(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="format", tag=FORMAT):
    """What one machine reports of one unit. Stored under `states/<machine>/<unit>`, on the machine's lease.

    `load`, `active` and `sub` are systemd's states. `hash` is that of the content on this machine, '' if its file is
    removed. `target` and `generation` are those of the placement that the machine has carried out last. `completed`: a
    oneshot ran to its end with success. `error` is why the last operation failed, in systemd's words if systemd failed
    it, else ''.

    `result` is systemd's result of the last job that left the unit at rest (`done`, `condition`: a condition was not
    met, which is no failure, `assert`, `dependency`, …), or `refused` if systemd did not accept the job; `note`
    explains a result that is no failure. `orphan`: the agent keeps the unit running because a restored store does not
    know it or does not want it; it carries out only a placement that runs it. `refusal` is why the machine takes no
    unit of this name, as a predicate ("has its own /etc/…"), else ''; `lacks` is the unit that is missing there, if
    that is why. `proof` answers a placement that asks for one; None: it cannot be told yet, or was not asked for.
    `unannounced` is why others cannot rely on the names of a unit that is at work (Announce=), '' if they can, or if it
    has none. `prepared` is the hash of the content for which all is here that the unit needs, for a placement that asks
    (Placement.prepares), else ''. `outdated`: reported before the store was restored and not since; not part of the
    stored value.
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
    proof: Proof | None = None
    unannounced: str = ""
    prepared: str = ""
    outdated: bool = False

    @property
    def runs(self) -> bool:
        """Whether processes of the unit may exist (systemd's active states but `inactive` and `failed`)."""
        return self.active not in AT_REST
