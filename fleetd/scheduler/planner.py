"""plan_cluster: what the leader writes next, with the reason of each decision.

Controllers propose, one after the other, over one proposal; then a decision is recorded for each affected unit. Pure:
the same snapshot gives the same plan, and planning twice changes nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec

from fleetd.model.ordered import Names
from fleetd.scheduler.affected import Affected
from fleetd.scheduler.controllers.drain import drain
from fleetd.scheduler.controllers.failover import fail_over
from fleetd.scheduler.controllers.move import end_moves, move
from fleetd.scheduler.controllers.placement import place
from fleetd.scheduler.controllers.reboot import reboot
from fleetd.scheduler.controllers.rollout import roll_out
from fleetd.scheduler.controllers.usage import count_usage
from fleetd.scheduler.decisions import finish
from fleetd.scheduler.failover_delays import NO_DELAYS, START, FailoverPolicy, Now
from fleetd.scheduler.preference import Standing
from fleetd.scheduler.proposal import Proposal, Write
from fleetd.scheduler.reboot_policy import ONE_AT_A_TIME, RebootPolicy
from fleetd.scheduler.relations import rolling_with, to_be_moved, with_colocated
from fleetd.scheduler.snapshot import Snapshot
from fleetd.scheduler.unit_plan import UnitPlan

# A controller adds to the proposal, which shows what those before it have proposed. It returns the leader-clock time at
# which a pass is due even if nothing changes, or None. It does no I/O and keeps nothing from pass to pass.
Controller = Callable[[Proposal], float | None]

CONTROLLERS: tuple[Controller, ...] = (
    fail_over,
    roll_out,
    move,
    drain,
    reboot,
    place,
    end_moves,
    count_usage,
)


class Plan(msgspec.Struct, frozen=True):
    """What to write, in this order; every prefix of it is a legal state of the cluster.

    `wakeups` are the leader-clock times at which a unit is to be planned again, `wake_at_s` that of the next pass, if
    any is due. `asks_store_health`: the next pass needs to know whether all members of the store are healthy.
    """

    writes: tuple[Write, ...] = ()
    wakeups: Mapping[str, float] = {}
    wake_at_s: float | None = None
    asks_store_health: bool = False

    @property
    def units(self) -> tuple[UnitPlan, ...]:
        """The plans of units."""
        return tuple(write for write in self.writes if isinstance(write, UnitPlan))


def plan_cluster(
    snapshot: Snapshot,
    affected: Affected | None = None,
    *,
    now: Now = START,
    policy: FailoverPolicy = NO_DELAYS,
    reboots: RebootPolicy = ONE_AT_A_TIME,
    controllers: Sequence[Controller] = CONTROLLERS,
    checkpoint: Callable[[], None] = lambda: None,
    standings: dict[str, Standing] | None = None,
) -> Plan:
    """Plan the units that a change affects (None: all).

    `checkpoint` is called for each controller and about once a unit, because a plan can take long: what it raises ends
    the plan. `standings` is given why each machine was chosen, by unit.
    """
    scopes = _scopes(snapshot, affected)
    proposal = Proposal(
        snapshot, scopes, now=now, policy=policy, reboots=reboots, checkpoint=checkpoint, standings=standings
    )
    due: list[float] = []
    for controller in controllers:
        checkpoint()
        due += [at_s] if (at_s := controller(proposal)) is not None else []
    writes = (*proposal.first, *_finish_units(proposal), *proposal.last)
    wakeups = {name: at_s for name, at_s in proposal.wakeups.items() if math.isfinite(at_s)}
    return Plan(writes, wakeups, min(due, default=None), proposal.asks_store_health)


def _scopes(snapshot: Snapshot, affected: Affected | None) -> dict[str, Names | None]:
    """The units to plan, in order, each with the machines to decide about (None: all): the affected ones (None: every
    unit), and what is decided together with them."""
    if affected is None:
        return dict.fromkeys(snapshot.known_units())
    scopes = affected.scopes()
    for name, machine in snapshot.on_draining_machines():
        scope = scopes.setdefault(name, {}) if name in snapshot.global_units else None
        if scope is None:
            scopes[name] = None
        else:
            scope[machine] = None
    names = with_colocated(snapshot, scopes)
    together = to_be_moved(snapshot)
    together |= rolling_with(snapshot, [*names, *together])  # last: a rollout is planned with all of its units, or not
    return {name: None if name in together else scopes.get(name) for name in sorted({*names, *together})}


def _finish_units(proposal: Proposal) -> list[UnitPlan]:
    """The plans of all units, ordered by machine, so that an agent reads its placements from few transactions. Peers
    and conflicting units are on one machine, where they are written in the order in which they were placed."""
    ordered = sorted(proposal.units.values(), key=lambda plan: (*plan.turn(), proposal.turns.get(plan.name, -1)))
    plans: list[UnitPlan] = []
    for plan in ordered:
        plans += [finished] if (finished := finish(proposal, plan)) is not None else []
        proposal.checkpoint()
    return plans
