"""What a unit asks for with IsolationSec=, IsolationStopSec= and Lock=: that it is stopped in time where its machine is
cut off from the store. Values, without behaviour of their own."""

import msgspec

DEFAULT_ISOLATION_S, DEFAULT_STOP_S = 30.0, 10.0
MARGIN_S = 5.0  # for clocks that differ by one percent, and for what systemd takes to end what was killed


class UnitLock(msgspec.Struct, frozen=True, gc=False):
    """The lock that a unit runs under, and how many may hold it at one time (Lock=NAME [SLOTS])."""

    name: str
    slots: int = 1


class IsolationOptions(msgspec.Struct, frozen=True, gc=False):
    """How long a unit may run where nothing is heard of the store.

    Its machine stops the unit `isolation_s` after it sent the last heartbeat that was answered (Lock=: the last
    renewal), and kills what is left `stop_s` later. `is_single`: the unit has IsolationSec=, so that it must never run
    twice, and is started elsewhere only when it has stopped for certain. `lock` is None without Lock=.
    """

    isolation_s: float = DEFAULT_ISOLATION_S
    stop_s: float = DEFAULT_STOP_S
    is_single: bool = False
    lock: UnitLock | None = None

    @property
    def is_set(self) -> bool:
        """True if the unit asks to be stopped where its machine is cut off."""
        return self.is_single or self.lock is not None

    @property
    def bound_s(self) -> float:
        """So long after that heartbeat nothing of the unit runs any more, by its machine's clock."""
        return self.isolation_s + self.stop_s

    @property
    def hold_s(self) -> float:
        """So long after the machine is gone the unit has stopped for certain, by any clock; the TTL of its lock."""
        return self.bound_s + MARGIN_S

    @property
    def sum_in_words(self) -> str:
        """How `hold_s` comes about: `45s: IsolationSec=30s, IsolationStopSec=10s and 5s`."""
        return (
            f"{self.hold_s:g}s: IsolationSec={self.isolation_s:g}s, IsolationStopSec={self.stop_s:g}s and {MARGIN_S:g}s"
        )

    def describe(self) -> str:
        """What that means for the unit, as a sentence whose subject is the unit, without full stop; '' without
        either."""
        if not self.is_set:
            return ""
        outage = f"an outage of the store for {self.isolation_s:g}s stops it everywhere"
        apart = f"starts elsewhere only after its machine was gone for {self.sum_in_words}"
        if self.lock is None:
            return f"{apart}; {outage}"
        slots = f", as one of {self.lock.slots}" if self.lock.slots > 1 else ""
        held = f"runs while it holds the lock {self.lock.name}{slots}, which others get if it is not renewed for "
        held += f"{self.hold_s:g}s" if self.is_single else self.sum_in_words
        return f"{apart}; {held}; {outage}" if self.is_single else f"{held}; {outage}"


NOT_ISOLATED = IsolationOptions()
