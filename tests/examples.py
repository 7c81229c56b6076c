"""The number of examples that Hypothesis draws: all with `make test`, a quarter of them with `make quick`.

`make quick` and CI draw the same examples each time, so a new failure comes from the change.
"""

from hypothesis import HealthCheck, settings

SHARE = 0.25


def register_profiles() -> None:
    """Register the profiles `full` (the default) and `quick`."""
    # The time of one example says nothing on a busy machine.
    full = settings(settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    quick = settings(full, max_examples=int(full.max_examples * SHARE), derandomize=True, database=None)
    settings.register_profile("full", full)
    settings.register_profile("quick", quick)
    settings.load_profile("full")


def examples(count: int) -> int:
    """The share of `count` examples that the loaded profile draws."""
    return max(1, count * settings.default.max_examples // settings.get_profile("full").max_examples)
