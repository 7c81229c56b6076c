"""The types of version 2 that are about events; schema.py has them too, under the same names."""

import msgspec

from fleetd.api.cause_schema import Cause, RejectionCount

BEGIN, MARK, GAP, BEHIND, END, STATE = "begin", "mark", "gap", "behind", "end", "state"


class Event(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One line of the stream of events. Later versions may add kinds and fields.

    `token` is where a reader goes on that has read this line, '' if it is not the last one of its moment. Lines about
    the stream: `begin` (the first), `mark` (nothing has happened for a while, or this is all), `gap` (the states of
    units up to here cannot be told any more: read them again), `behind` (the reader is too slow: the stream ends),
    `end` (it ends for another reason, which `detail` says; go on with the last token).

    Of the cluster: `asked` (`by` somebody: `action` on `unit`, `machine` or `subject`), `placed` (`unit` on `machine`),
    `moved` (from `former`), `unplaced`, `superseded`, `rollout` and `reboot` (a `step`), `drain`, `lock` (`lost`: its
    holder, `detail`, has vanished without a release; `restored`: it is the first that is taken after a restore), and of
    machines `joined`, `lost`, `back` and `left`. `at` is Unix time by the clock of the machine that has recorded it.
    `reason` says why a unit is where it is, `message` the same as a sentence, `rejections` which machines do not take
    it. `units` are those that a step of a rollout changes, `why` is the word for what has stopped a rollout or a
    reboot, and `detail` what a machine says about it.

    `state`: a machine reports another state of a unit, in systemd's words (`load`, `active`, `sub`, `result`, `error`);
    all are '' once it reports the unit no longer.
    """

    kind: str
    token: str = ""
    at: float = 0.0
    unit: str = ""
    machine: str = ""
    former: str = ""
    by: str = ""
    action: str = ""
    subject: str = ""
    id: str = ""
    step: str = ""
    units: tuple[str, ...] = ()
    message: str = ""
    reason: Cause | None = None
    rejections: tuple[RejectionCount, ...] = ()
    why: str = ""
    detail: str = ""
    load: str = ""
    active: str = ""
    sub: str = ""
    result: str = ""
    error: str = ""
