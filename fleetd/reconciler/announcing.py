"""Whether a unit that announces itself (Announce=) is to be announced now, by what systemd says and how checks went.

A unit is announced while it is active and its check passes. One that flaps has to pass more often in a row each time,
so that it does not keep the store and its clients busy.
"""

import msgspec

from fleetd.model.announce_options import AnnounceOptions
from fleetd.model.placement import Placement
from fleetd.reconciler.observed import Observed

FLAP_WINDOW_S = 300.0
MOST_PASSES = 16  # in a row, that a unit that flaps needs
MAX_FAILING = 200  # characters of a reason
_ACTIVE = ("active", "reloading")


class Health(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a unit's run goes. `passes`: it is well, and may be announced. `in_row` counts the results that say
    otherwise, one after the other. `failing` is why it is not well, '' if that is not known yet. `failed_at_s` is when
    it ceased to be well, on the machine's monotonic clock, of the last FLAP_WINDOW_S."""

    passes: bool = False
    in_row: int = 0
    failing: str = ""
    failed_at_s: tuple[float, ...] = ()

    @property
    def needed(self) -> int:
        """How many passes in a row it takes to be well again."""
        return min(1 << max(len(self.failed_at_s) - 1, 0), MOST_PASSES)


def note_result(health: Health, options: AnnounceOptions, failure: str, at_s: float) -> Health:
    """The health after a check, which failed for this reason, or ('') passed."""
    recent = _recent(health, at_s)
    failure = failure[:MAX_FAILING]
    if health.passes:
        if not failure:
            return Health(True, failed_at_s=health.failed_at_s)
        if health.in_row + 1 < options.failures:
            return Health(True, health.in_row + 1, failed_at_s=health.failed_at_s)
        return Health(failing=failure, failed_at_s=(*recent, at_s)[-MOST_PASSES:])
    before = msgspec.structs.replace(health, failed_at_s=recent)
    if failure:
        return msgspec.structs.replace(before, in_row=0, failing=failure)
    if health.in_row + 1 >= before.needed:
        return Health(True, failed_at_s=recent)
    return msgspec.structs.replace(before, in_row=health.in_row + 1)


def note_end(health: Health, at_s: float) -> Health:
    """The health after a run that ended by itself: of a unit that was well, that counts as a failure."""
    recent = _recent(health, at_s)
    return Health(failed_at_s=(*recent, at_s)[-MOST_PASSES:] if health.passes else recent)


def _recent(health: Health, at_s: float) -> tuple[float, ...]:
    return tuple(each for each in health.failed_at_s if at_s - FLAP_WINDOW_S < each <= at_s)


def describe_health(health: Health) -> str:
    """Why the unit is not announced, in words; '' if it is well."""
    if health.passes:
        return ""
    flaps = f" (it has failed {len(health.failed_at_s)} times in {FLAP_WINDOW_S / 60:g} min"
    flaps += f", and has to pass {health.needed} times in a row)"
    words = f"its check fails: {health.failing}" if health.failing else "its check has not passed yet"
    return words + (flaps if health.needed > 1 else "")


def is_at_work(placement: Placement | None, seen: Observed) -> bool:
    """True if the unit is fleet's and active, and its placement (None: it is kept without one) does not say that
    another machine does its work."""
    if placement is not None and placement.superseded and not placement.hands_over:
        return False
    return seen.ours and seen.active in _ACTIVE and not seen.stopping


def may_begin(seen: Observed) -> bool:
    """True if nothing is under way that may stop the unit: only then it is announced anew."""
    return not seen.job
