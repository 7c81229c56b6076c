"""Explanations as the API shows them. Pure."""

from fleetd.api import schema
from fleetd.api.http import ApiError
from fleetd.api.unit_operations import NOT_FOUND
from fleetd.api.v2.reports import describe_reason
from fleetd.model.reason import Rejection, RejectionKind, render, render_rejection
from fleetd.scheduler.explanation import Narrowing, Requirement, Verdict, explain
from fleetd.scheduler.preference import Preference
from fleetd.scheduler.snapshot import Snapshot

_MOST_NAMED = 5  # units in a sentence


def describe_explanation(snapshot: Snapshot, name: str, revision: int) -> schema.Explanation:
    """The explanation of a unit, as the store has it at this revision. Raises ApiError if it has none."""
    unit, decision = snapshot.units.get(name), snapshot.decisions.get(name)
    if unit is None:
        raise ApiError(404, NOT_FOUND)
    found = explain(snapshot, name)
    return schema.Explanation(
        unit=name,
        revision=revision,
        target=unit.target,
        places=tuple(_describe_place(snapshot, name, machine) for machine in found.here),
        since=decision.since if decision and decision.machine else 0.0,
        reason=render(decision.reason) if decision else "",
        cause=describe_reason(decision.reason) if decision else None,
        machines=found.machines,
        best=found.best,
        why_here=tuple(_describe_narrowing(each, name) for each in found.narrowings),
        why_not=tuple(_describe_verdict(snapshot, each) for each in found.others),
        isolation=snapshot.requirements(name).isolation.describe(),
    )


def _describe_place(snapshot: Snapshot, name: str, machine: str) -> schema.Place:
    state = snapshot.states.get(name, {}).get(machine)
    if state is None:
        return schema.Place(machine, _address(snapshot, machine))
    return schema.Place(machine, _address(snapshot, machine), state.unannounced, state.note)


def _describe_narrowing(narrowing: Narrowing, name: str) -> schema.Narrowing:
    return schema.Narrowing(
        rule=narrowing.rule,
        left=narrowing.left,
        message=_render_rule(narrowing, name),
        rejections=tuple(map(_describe, narrowing.rejections)),
        value=narrowing.value,
    )


def _render_rule(narrowing: Narrowing, name: str) -> str:
    """The rule in words."""
    subjects = [each.subject for each in narrowing.rejections[:_MOST_NAMED] if each.subject]
    more = len(narrowing.rejections) - _MOST_NAMED
    listed = ", ".join(subjects) + (f" and {more} more" if more > 0 else "")
    match narrowing.rule:
        case Requirement.ACCEPTS:
            return "takes new units"
        case Requirement.HAS:
            return _render_property(narrowing.rejections[0])
        case Requirement.TAKES:
            return "takes this unit"
        case Requirement.SOCKETS:
            return "has a socket of it"
        case Requirement.PEERS:
            return f"beside {listed} (MachineOf=)"
        case Requirement.CONFLICTS:
            return f"not beside {listed} (Conflicts=)"
    return render_preference(Preference(narrowing.rule), narrowing.value, name)


def _render_property(lacking: Rejection) -> str:
    """The property that the rejected machines lack, in words."""
    words = {
        RejectionKind.MACHINE_ID: f"machine {lacking.subject}",
        RejectionKind.OUTDATED: f"its fleetd knows {lacking.subject}",
        RejectionKind.NO_SEAL_KEY: "has a key for secrets",
    }
    return words.get(lacking.kind, lacking.subject)


def render_preference(preference: Preference, value: int, name: str) -> str:
    """What makes a machine the better one for the unit, in words, with its value there."""
    match preference:
        case Preference.RUNS:
            return "runs there already"
        case Preference.REPLACED:
            return "nothing there replaces it"
        case Preference.INSTANCES:
            return f"fewest of {name.partition('@')[0]}@.{name.rpartition('.')[2]} ({value})"
        case Preference.UNITS:
            return f"fewest units ({value})"
    return "lowest id"


def _describe_verdict(snapshot: Snapshot, verdict: Verdict) -> schema.Verdict:
    rule = verdict.preference or ""
    return schema.Verdict(
        machine=verdict.machine,
        address=_address(snapshot, verdict.machine),
        message=_render_verdict(verdict),
        rejections=tuple(map(_describe, verdict.rejections)),
        rule=rule,
        value=verdict.value if rule != Preference.ID else 0,
        better=verdict.is_better,
    )


def _render_verdict(verdict: Verdict) -> str:
    if verdict.rejections:
        return "; ".join(map(render_rejection, verdict.rejections))
    words = {
        Preference.RUNS: "runs there already" if verdict.is_better else "does not run there",
        Preference.REPLACED: "nothing there replaces it" if verdict.is_better else "a unit there replaces it",
        Preference.INSTANCES: f"{verdict.value} of its template there",
        Preference.UNITS: f"{verdict.value} unit{'s'[: verdict.value != 1]} there",
        Preference.ID: "the lower id" if verdict.is_better else "as good, and has the higher id",
    }
    if verdict.preference is None:
        return "fits"
    return f"fits{', and is the better one now' * verdict.is_better}: {words[verdict.preference]}"


def _describe(rejection: Rejection) -> schema.Rejection:
    return schema.Rejection(rejection.kind, rejection.subject)


def _address(snapshot: Snapshot, machine: str) -> str:
    known = snapshot.machines.get(machine)
    return known.address if known else ""
