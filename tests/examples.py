"""How many examples Hypothesis draws: as many as a test wants where all is tested, a quarter of it by `make quick`.

There the same ones are drawn each time, as they are on CI: what fails after a change fails by the change.
"""

from hypothesis import HealthCheck, settings

SHARE = 0.25


def register_profiles() -> None:
    """`full`, which is the default, and `quick`."""
    # How long an example takes says nothing on a machine that does other things beside.
    full = settings(settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    quick = settings(full, max_examples=int(full.max_examples * SHARE), derandomize=True, database=None)
    settings.register_profile("full", full)
    settings.register_profile("quick", quick)
    settings.load_profile("full")


def examples(count: int) -> int:
    """Of `count` examples, as many as the profile in force has drawn."""
    return max(1, count * settings.default.max_examples // settings.get_profile("full").max_examples)
