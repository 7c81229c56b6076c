"""What a plan is asked to suppose, as the records that would be in the store. Pure.

What would be refused is refused here with the same words, except for the quota, and for machines whose fleetd is too
old.
"""

from collections.abc import Callable, Sequence

import msgspec

from fleetd.api import schema
from fleetd.api.http import ApiError
from fleetd.api.joined_units import check_joined_in
from fleetd.api.unit_operations import Author, check_names, make_operation, plan_change
from fleetd.api.v2.drains import refuse_held
from fleetd.model.apply import ApplyPlan
from fleetd.model.machine import Capability, Cordon, DrainRequest, Machine, MachineSettings
from fleetd.model.rollout import Apply
from fleetd.model.unit import Unit
from fleetd.scheduler.failover_delays import Now
from fleetd.scheduler.foresight import Hypothesis
from fleetd.scheduler.snapshot import Snapshot

MAX_MACHINES = 1000  # in one request
_NEW = "new-"  # begins the ids of machines that join; ids of others are hexadecimal, and so come before


def suppose_drained(snapshot: Snapshot, asked: Sequence[schema.PlannedDrain], now: Now) -> Hypothesis:
    """These machines are drained. Raises ApiError if one cannot be."""
    return Hypothesis(settings={each.machine: _drained(snapshot, each, now) for each in asked})


def _drained(snapshot: Snapshot, asked: schema.PlannedDrain, now: Now) -> MachineSettings:
    """The settings of a machine as its drain would make them."""
    machine, settings = snapshot.machines.get(asked.machine), snapshot.settings.get(asked.machine)
    if machine is None and settings is None and asked.machine not in snapshot.synced:
        raise _unknown(asked.machine)
    refuse_held(machine)
    settings = settings or MachineSettings()
    drain = DrainRequest(at=now.unix_s, with_globals=asked.with_globals, force=asked.force)
    return MachineSettings(settings.metadata, settings.cordon or Cordon(at=now.unix_s), drain)


def suppose_lost(snapshot: Snapshot, machines: Sequence[str]) -> Hypothesis:
    """These machines are lost together. Raises ApiError for one that is not in the cluster."""
    for machine in machines:
        if machine not in snapshot.machines and machine not in snapshot.synced and not snapshot.placed_on.get(machine):
            raise _unknown(machine)
    return Hypothesis(machines=dict.fromkeys(machines))


def _unknown(machine: str) -> ApiError:
    return ApiError(400, f"unknown machine {machine}: give the full id of one that is in the cluster")


def suppose_joined(snapshot: Snapshot, asked: Sequence[schema.PlannedMachine]) -> Hypothesis:
    """These machines join, with the present version of fleet. Raises ApiError for an id that is taken."""
    if len(asked) > MAX_MACHINES:
        raise ApiError(413, f"{len(asked)} machines in one request, and at most {MAX_MACHINES} are allowed")
    joined: dict[str, Machine | None] = {}
    for number, each in enumerate(asked, 1):
        id_ = each.id or f"{_NEW}{number}"
        if id_ in snapshot.machines or id_ in joined:
            raise ApiError(400, f"machine {id_} is in the cluster already")
        capabilities = {str(capability): True for capability in Capability}
        joined[id_] = Machine(id_, session=id_, metadata=each.metadata, capabilities=capabilities, seal_key=id_)
    return Hypothesis(machines=joined)


def suppose_changed(
    snapshot: Snapshot,
    asked: Sequence[schema.UnitOperation],
    *,
    revision: int,
    shadows: Callable[[str], str],
    author: Author,
) -> Hypothesis:
    """These operations are carried out in order, after this revision of the store. Raises ApiError if one of them would
    be refused."""
    check_names([each.name for each in asked])
    units: dict[str, Unit | None] = {}

    def current(name: str) -> Unit | None:
        return units[name] if name in units else snapshot.units.get(name)

    for each in asked:
        try:
            operation = make_operation(each)
            before = current(operation.name)
            template = current(operation.template) if operation.template else None
            if template is not None and before is None:
                template = _with_last_rollout(snapshot, template)
            change = plan_change(operation, before, shadows, template, author=author)
            before_content = change.before.content if change.before else None
            if change.after is not None and change.after.content != before_content:
                check_joined_in(current, [change.after], units)
        except ApiError as error:
            raise ApiError(error.status, f'unit "{each.name}": {error}') from error
        if change.after is not change.before:
            units[operation.name] = _written(change.after, revision)
    return Hypothesis(units=units)


def _with_last_rollout(snapshot: Snapshot, template: Unit) -> Unit:
    """The template, without its `rollout` if a later one of the group has begun (templates.with_last_rollouts)."""
    last = snapshot.rollouts.get(template.name)
    is_last = template.rollout == (last.id if last else "")
    return template if is_last else msgspec.structs.replace(template, rollout="")


def suppose_applied(snapshot: Snapshot, plan: ApplyPlan, rollout: str, revision: int) -> Hypothesis:
    """This plan is written after this revision of the store, as the apply of this id; nothing is if it is refused.
    Raises ApiError if its units cannot be joined as they are to be."""
    if plan.refusals:
        return Hypothesis()
    check_joined_in(snapshot.units.get, [unit.after for unit in plan.written], {})
    units = {unit.name: _written(unit.after, revision) for unit in plan.written}
    return Hypothesis(units=units, applies={rollout: Apply()})


def _written(unit: Unit | None, revision: int) -> Unit | None:
    """The unit with the generation that writing it gives it. All of a request are written at about one revision."""
    return msgspec.structs.replace(unit, generation=revision + 1, at=0.0) if unit else None
