"""The types of version 2 that are about rollouts; schema.py has them too, under the same names."""

import msgspec

# GET /fleet/v2/rollouts?group=GROUP&group=GROUP… (all where no group is given). A group is the template of its
# instances, or a unit alone; an instance's name stands for its group.


class RolloutMember(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a unit has got on one machine ('': on none).

    `progress` is `waiting` (for its turn), `changing` (it was given its content, or is restarted, and is neither proven
    nor failed), `proven` (healthy for UpdateSettleSec=), `failed` (`why` says it), `absent` (it is not to run, or its
    machine is not there: it is changed when it is back) or `kept` (it has what it is to have, and is left alone).
    `reverted`: it was given its former content back, and `progress` is about that. `since` is when its turn came (Unix
    time; 0: it has not come, or the rollout is over).
    """

    unit: str
    machine: str = ""
    address: str = ""
    progress: str = ""
    why: str = ""
    reverted: bool = False
    since: float = 0.0


class RolloutFailure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which unit failed, where, and why."""

    unit: str
    machine: str = ""
    why: str = ""


class PastRollout(msgspec.Struct, frozen=True):
    """An earlier rollout, by its id. `outcome` is `done`, `reverted`, `paused`, or `replaced`: another one began while
    it was under way."""

    id: str
    outcome: str


class Rollout(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last rollout of a group.

    `id` is that of the request which asked for it, at `started` (Unix time), `by` a user ('' if not told) with the
    remark `note`; `changed` is when it last got on. `phase` is `pending` (the leader has not begun it), `running`,
    `reverting`, `done` or `reverted`. `paused` is why it is paused, '' if it is not: `operator`, `failed`,
    `revert-failed`, `nothing-to-revert-to`, `blocked` or `store-restored`. `status` says both, and what it waits for,
    as a sentence. `asked` is what an operator has asked for and the leader has not carried out yet: `pause`, `resume`
    or `continue`. `canaries` are the units that are to be found good before the others are changed. `failure` is why it
    is reverted or paused. `updated` of `total` members have, or had before the revert, what was asked for. Members of
    rollouts that are over are listed only where the group is named. `past` are the last rollouts before it, oldest
    first.
    """

    group: str
    id: str
    phase: str
    paused: str = ""
    status: str = ""
    asked: str = ""
    by: str = ""
    note: str = ""
    started: float = 0.0
    changed: float = 0.0
    canaries: tuple[str, ...] = ()
    failure: RolloutFailure | None = None
    updated: int = 0
    total: int = 0
    members: tuple[RolloutMember, ...] = ()
    past: tuple[PastRollout, ...] = ()


class Rollouts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer, by group. Groups without a rollout are left out."""

    rollouts: tuple[Rollout, ...] = ()


# POST /fleet/v2/rollouts/{group}


class RolloutCommand(msgspec.Struct, frozen=True):
    """The body. `action` is `pause`, `resume`, `continue` (past the canaries), `restart` (its launched units, one
    after the other, as a new rollout) or `undo`: units get the content of the version `to` (0: of the last one that
    differs from what they hold), as a new rollout."""

    action: str
    to: int = 0
