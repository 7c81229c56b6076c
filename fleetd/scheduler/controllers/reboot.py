"""Reboots: machines that are to be rebooted get a slot one after the other, are drained (controllers/drain.py), told to
reboot, and waited for until they serve again.

The record of a machine is written before anything is done about it, guarded by its revision and by that of the request:
the next leader goes on where this one was, and one that is cancelled goes no further.
"""

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from fleetd.model.machine import Machine
from fleetd.model.reason import NowhereElse, Unavailability
from fleetd.model.reboot import (
    CLIENT_ASKS_WITHIN_S,
    DRAIN_WITHIN_S,
    RETURN_WITHIN_S,
    WHEN_REQUIRED,
    Reboot,
    RebootFailure,
    RebootPhase,
    RebootRequest,
    in_order,
)
from fleetd.model.reboot_window import next_opening
from fleetd.model.unit import TargetState
from fleetd.scheduler.proposal import Proposal, RebootPlan
from fleetd.scheduler.reboot_policy import HEALTH_COUNTS_S
from fleetd.scheduler.relocation import ask_for_proof, is_finishing
from fleetd.scheduler.unit_plan import UnitPlanBuilder

LISTED = 10  # units that a machine waits for
SILENT_CLIENT = "its FleetLock client has not asked again whether it may reboot"
DISOBEYED = "it is there, and has not rebooted although it was told to"
RETRY_S = 86400.0  # after which a machine that needs a reboot, and whose reboot was given up, is tried again

Due = float | None  # when (Unix time) to look again even if nothing changes


def reboot(proposal: Proposal) -> float | None:
    """Take each reboot one step on, and give free slots to those who wait. Returns when to look again."""
    snapshot, now = proposal.snapshot, proposal.now
    if not snapshot.reboots and not snapshot.reboot_requests and not snapshot.needing_reboot:
        return None
    due = [_go_on(proposal, machine, record) for machine, record in sorted(snapshot.reboots.items())]
    requests = list(_waiting(proposal))
    if not any(isinstance(write, RebootPlan) for write in proposal.first):  # else the slots are counted anew first
        due += _begin(proposal, requests)
    return min((now.clock_s + at - now.unix_s for at in due if at is not None), default=None)


# A machine that has a slot.


def _go_on(proposal: Proposal, machine: str, record: Reboot) -> Due:
    """Take one reboot a step on."""
    if not record.holds_slot:
        return None
    request = proposal.snapshot.reboot_requests.get(machine)
    if record.revision < proposal.snapshot.restored_at:  # what was asked for may lie hours back
        return _give_up(proposal, machine, record, RebootFailure.RESTORED)
    if request is None:
        return _cancel(proposal, machine, record)
    if record.phase is RebootPhase.DRAINING:
        return _watch_drain(proposal, machine, record)
    if _is_back(proposal, machine, record):
        return _watch_return(proposal, machine, record)
    found = proposal.snapshot.machines.get(machine)
    refused = found.reboot_refused if found else None
    if refused is not None and refused.order == record.id and record.phase is RebootPhase.ORDERED:
        return _give_up(proposal, machine, record, RebootFailure.REFUSED, detail=refused.why)
    return _watch_absence(proposal, machine, record, request)


def _watch_absence(proposal: Proposal, machine: str, record: Reboot, request: RebootRequest) -> Due:
    """Give up a machine that is not back in time. A FleetLock client's time begins when it was told that it may go."""
    if not record.is_under_way:
        is_idle = not record.client and _takes_part(proposal, machine)  # with the boot that was to end
        return _give_up(proposal, machine, record, RebootFailure.REFUSED, detail=DISOBEYED) if is_idle else None
    if request.granted > record.ordered:
        return _write(proposal, machine, replace(record, ordered=request.granted))
    is_told = not record.client or request.granted > 0 or not _takes_part(proposal, machine)
    until = record.ordered + (RETURN_WITHIN_S if is_told else CLIENT_ASKS_WITHIN_S)
    if proposal.now.unix_s < until:
        return until
    if is_told:
        return _give_up(proposal, machine, record, RebootFailure.NOT_BACK, waits=record.waits)
    return _give_up(proposal, machine, record, RebootFailure.REFUSED, detail=SILENT_CLIENT)


def _is_back(proposal: Proposal, machine: str, record: Reboot) -> bool:
    """True if the machine is registered with a new boot."""
    found = proposal.snapshot.machines.get(machine)
    return found is not None and found.boot_id != record.boot_id and _takes_part(proposal, machine)


def _takes_part(proposal: Proposal, machine: str) -> bool:
    """True if the machine is registered, and neither leaves nor is parked."""
    effective = proposal.snapshot.effective.get(machine)
    return effective is not None and not effective.evicts and not effective.hold


def _watch_drain(proposal: Proposal, machine: str, record: Reboot) -> Due:
    """Tell the machine to reboot once nothing is left there but what stays, and others can do without that."""
    if not _takes_part(proposal, machine):
        return None  # whether it has rebooted is seen when it is back
    found = proposal.snapshot.machines[machine]
    if found.boot_id != record.boot_id:
        return _release(proposal, machine, record)
    kept, left = _sort_units(proposal, machine, is_first=_is_first(proposal, machine, record))
    if not left:
        left, due = _find_obstacles(proposal, found, kept)
        if not left and due is None:
            return _order(proposal, machine, record, kept)
    else:
        due = None
    waits = tuple(left[:LISTED])
    if 0 < record.deadline <= proposal.now.unix_s:
        return _give_up(proposal, machine, record, RebootFailure.DEADLINE, waits=waits)
    if waits != record.waits:
        _write(proposal, machine, replace(record, waits=waits))
    return min((at for at in (due, record.deadline) if at), default=None)


def _is_first(proposal: Proposal, machine: str, record: Reboot) -> bool:
    """False while another machine, which began before this one, is not back: what fits nowhere else may fit there."""
    turn = (record.began, machine)
    others = ((each.began, name) for name, each in proposal.snapshot.reboots.items() if each.is_under_way)
    return all(other >= turn for other in others)


def _sort_units(proposal: Proposal, machine: str, *, is_first: bool) -> tuple[list[UnitPlanBuilder], list[str]]:
    """The units that stay on the machine while it reboots, and those that have still to leave it, in order."""
    kept: list[UnitPlanBuilder] = []
    left: list[str] = []
    for name in sorted(proposal.snapshot.placed_on.get(machine, ())):
        plan = proposal.units[name]
        placement = plan.placements.get(machine)
        if placement is None or placement.declined or placement.prepares or plan.is_template:
            continue
        stays = plan.is_on_many or (is_first and isinstance(plan.stays, NowhereElse))
        if stays and plan.is_wanted and placement.is_active and machine not in plan.leaves:
            kept.append(plan)
        else:
            left.append(name)
    return kept, left


def _find_obstacles(proposal: Proposal, machine: Machine, kept: Sequence[UnitPlanBuilder]) -> tuple[list[str], Due]:
    """The units that keep the machine from going down now, and when to look again at the store's members."""
    left = [plan.name for plan in kept if is_finishing(plan, machine.id) or _is_unsettled(proposal, plan, machine.id)]
    if left:
        return left, None
    if not _may_member_go(proposal, machine):
        return [], proposal.now.unix_s + HEALTH_COUNTS_S
    wait = proposal.budget.spend_all([(plan.name, machine.id) for plan in kept])
    return [member.unit for member in wait.members] if wait else [], None


def _is_unsettled(proposal: Proposal, plan: UnitPlanBuilder, machine: str) -> bool:
    """True if the unit runs there, and it will be known soon whether it is healthy."""
    why, state = proposal.budget.unavailability(plan.name, machine), plan.states.get(machine)
    is_unknown = why in (Unavailability.UNREPORTED, Unavailability.UNPROVEN)
    return is_unknown and state is not None and state.active in ("active", "reloading")


def _order(proposal: Proposal, machine: str, record: Reboot, kept: Sequence[UnitPlanBuilder]) -> Due:
    """Tell the machine to reboot."""
    now = proposal.now.unix_s
    awaited = tuple(plan.name for plan in kept if _is_to_be_awaited(plan, machine))
    names = tuple(plan.name for plan in kept)
    phase = RebootPhase.ORDERED
    ordered = replace(record, phase=phase, ordered=now, changed=now, kept=names, awaited=awaited, waits=())
    session = proposal.snapshot.machines[machine].session
    is_synced = session == proposal.snapshot.synced.get(machine)  # else that is written in this pass anyway
    return _write(proposal, machine, ordered, session=session if is_synced else "")


def _is_to_be_awaited(plan: UnitPlanBuilder, machine: str) -> bool:
    """True for a unit that runs there and is to run there again. A oneshot that has completed is not run again."""
    state = plan.states.get(machine)
    is_launched = plan.unit is not None and plan.unit.target is TargetState.LAUNCHED
    return is_launched and state is not None and state.active in ("active", "reloading") and not state.completed


def _watch_return(proposal: Proposal, machine: str, record: Reboot) -> Due:
    """Release the machine once what stayed there serves again."""
    waits = []
    for name in record.awaited:
        plan = proposal.units.get(name)
        placement = plan.placements.get(machine) if plan is not None else None
        if plan is None or placement is None or not placement.is_active or not plan.is_to_run:
            continue  # it was stopped, or is elsewhere
        ask_for_proof(proposal, plan, machine)
        is_asked = placement.prove_after_s is not None or not proposal.snapshot.answers_proofs(machine)
        if not is_asked or proposal.budget.unavailability(name, machine) is not None:
            waits.append(name)
    if not waits:
        return _release(proposal, machine, record)
    if record.phase is RebootPhase.ORDERED:
        record = replace(record, phase=RebootPhase.RETURNING, changed=proposal.now.unix_s)
    record = replace(record, waits=tuple(waits[:LISTED]))
    if record.is_under_way and record.ordered + RETURN_WITHIN_S <= proposal.now.unix_s:
        return _give_up(proposal, machine, record, RebootFailure.NOT_SERVING, waits=record.waits)
    if record != proposal.snapshot.reboots[machine]:
        _write(proposal, machine, record)
    return record.ordered + RETURN_WITHIN_S if record.is_under_way else None


# How it ends.


def _release(proposal: Proposal, machine: str, record: Reboot) -> Due:
    """The reboot is over: the slot and the cordon go with the record. A request about a later boot stays."""
    request = proposal.snapshot.reboot_requests.get(machine)
    is_done = request is not None and request.boot_id == record.boot_id
    return _write(proposal, machine, None, ends_request=is_done)


def _cancel(proposal: Proposal, machine: str, record: Reboot) -> Due:
    """An operator has deleted the request, or the FleetLock client its own. What the settings ask for is not begun
    again."""
    if record.by == WHEN_REQUIRED:
        return _give_up(proposal, machine, record, RebootFailure.CANCELLED)
    return _write(proposal, machine, None)


def _give_up(
    proposal: Proposal,
    machine: str,
    record: Reboot,
    failure: RebootFailure,
    *,
    detail: str = "",
    waits: tuple[str, ...] = (),
) -> Due:
    """The record says from now on why the machine was not rebooted, or that it has not come back. The request goes with
    the slot."""
    phase, now = RebootPhase.GAVE_UP, proposal.now.unix_s
    record = replace(record, phase=phase, failure=failure, detail=detail, waits=waits, changed=now)
    return _write(proposal, machine, record, ends_request=not record.holds_slot)


def _write(
    proposal: Proposal, machine: str, record: Reboot | None, *, ends_request: bool = False, session: str = ""
) -> Due:
    """Have the record written, or deleted. That alone is cause to look again."""
    before = proposal.snapshot.reboots.get(machine)
    request = proposal.snapshot.reboot_requests.get(machine)
    revision, request_revision = before.revision if before else 0, request.revision if request else 0
    ends_request = ends_request and request is not None
    plan = RebootPlan(machine, revision, request_revision, record, ends_request, session=session)
    proposal.first.append(plan)
    return None


# Machines that wait for a slot.


def _waiting(proposal: Proposal) -> Iterator[tuple[str, RebootRequest]]:
    """The machines that are to be rebooted and have no slot, in the order of their requests. A request that has become
    void is ended."""
    snapshot = proposal.snapshot
    requests = dict(snapshot.reboot_requests)
    if proposal.reboots.when_required:
        needed = (machine for machine in snapshot.needing_reboot if machine not in requests)
        requests |= {machine: request for machine in needed if (request := _required(proposal, machine)) is not None}
    for machine in in_order(requests):
        request = requests[machine]
        record, found = snapshot.reboots.get(machine), snapshot.machines.get(machine)
        if record is not None and record.holds_slot:
            continue
        if 0 < request.revision < snapshot.restored_at:
            _give_up(proposal, machine, _new_record(proposal, machine, request), RebootFailure.RESTORED)
        elif found is not None and found.boot_id != request.boot_id:  # it has rebooted anyway
            _write(proposal, machine, None, ends_request=True)
        else:
            yield machine, request


def _required(proposal: Proposal, machine: str) -> RebootRequest | None:
    """The request for a machine that needs a reboot and that nobody asked to be rebooted, unless that was tried with
    this boot."""
    boot_id, record = proposal.snapshot.machines[machine].boot_id, proposal.snapshot.reboots.get(machine)
    now = proposal.now.unix_s
    if record is not None and record.boot_id == boot_id:
        is_final = record.failure in (RebootFailure.CANCELLED, RebootFailure.RESTORED)
        if is_final or now < record.changed + RETRY_S:
            return None
    return RebootRequest(f"required-{boot_id}-{now:.0f}", boot_id, WHEN_REQUIRED, now, DRAIN_WITHIN_S)


def _begin(proposal: Proposal, requests: Sequence[tuple[str, RebootRequest]]) -> list[Due]:
    """Give a free slot to the first machine that may begin: one after the other, so that what leaves one machine does
    not find the next one closed as well. Returns when others may begin."""
    records = [record for record in proposal.snapshot.reboots.values() if record.holds_slot]
    is_busy = any(record.phase is RebootPhase.DRAINING or record.stops_queue for record in records)
    if is_busy or len(records) >= proposal.reboots.slots:
        return []
    due: list[Due] = []
    member_goes = any(record.etcd_member for record in records)
    for machine, request in requests:
        if not _takes_part(proposal, machine):
            continue
        now, found = proposal.now.unix_s, proposal.snapshot.machines[machine]
        opens = now if request.now else next_opening(proposal.reboots.windows, now)
        if opens > now:
            due.append(opens)
        elif found.etcd_member and (member_goes or not _may_member_go(proposal, found)):
            due.append(None if member_goes else now + HEALTH_COUNTS_S)
        else:
            is_new = machine not in proposal.snapshot.reboot_requests
            before = proposal.snapshot.reboots.get(machine)
            record = _new_record(proposal, machine, request)
            plan = RebootPlan(machine, before.revision if before else 0, request.revision, record)
            proposal.first.append(replace(plan, request=request) if is_new else plan)
            break
    return due


def _new_record(proposal: Proposal, machine: str, request: RebootRequest) -> Reboot:
    now, found = proposal.now.unix_s, proposal.snapshot.machines.get(machine)
    return Reboot(
        request.id,
        request.boot_id,
        by=request.by,
        client=request.client,
        etcd_member=found.etcd_member if found else "",
        began=now,
        deadline=now + request.drain_within_s if request.drain_within_s else 0.0,
        changed=now,
    )


def _may_member_go(proposal: Proposal, machine: Machine) -> bool:
    """True if the machine hosts no member of the store, or all others are known to be healthy. Else the store is to be
    asked."""
    if not machine.etcd_member:
        return True
    health = proposal.snapshot.store_health
    if health is None or proposal.now.clock_s - health.asked_s > HEALTH_COUNTS_S:
        proposal.asks_store_health = True
        return False
    return all(member == machine.etcd_member for member in health.unhealthy)
