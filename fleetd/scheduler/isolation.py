"""How long a unit that must not run twice (IsolationSec=) may go on where its machine is cut off."""

from fleetd.model.content import Content, HasContent
from fleetd.model.placement import Placement
from fleetd.model.requirements import placed_requirements
from fleetd.model.unit import UnitState


def isolation_hold_s(placement: Placement) -> float:
    """How long after its machine is gone the unit of this placement may run there, if it must not run twice; 0 for any
    other."""
    return max(placement.isolation_hold_s, _hold_s(placement.content, placement.unit))


def former_hold_s(former: Placement | None, content: HasContent, state: UnitState | None) -> float:
    """How long the unit of a placement that is given this content may run as it was before, if that is longer; 0 once
    the machine has reported the content."""
    before_s = isolation_hold_s(former) if former is not None else 0.0
    if former is None or not before_s:
        return 0.0
    given = Content(content.text, content.dropins)
    is_carried_out = state is not None and not state.outdated and state.hash == given.hash
    return 0.0 if is_carried_out or before_s <= _hold_s(given, former.unit) else before_s


def _hold_s(content: Content, name: str) -> float:
    asked = placed_requirements(content, name)
    return asked.isolation.hold_s if asked.isolation.is_single and not asked.is_global else 0.0
