"""Shorten a failing run: drop all actions that it fails without, in ever smaller pieces."""

from collections.abc import Callable, Sequence

from tests.simulation.actions import Action


def shrink(actions: Sequence[Action], fails: Callable[[Sequence[Action]], bool]) -> tuple[Action, ...]:
    """The shortest list found that still fails as `actions` does. Each attempt is a run."""
    kept = list(actions)
    size = max(1, len(kept) // 2)
    while size:
        start = 0
        while start < len(kept):
            fewer = kept[:start] + kept[start + size :]
            if fails(fewer):
                kept = fewer
            else:
                start += size
        size //= 2
    return tuple(kept)
