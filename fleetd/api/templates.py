"""The templates of units that are to be written: new instances of one run the content that its rollout has come to."""

from collections.abc import Mapping

import msgspec

from fleetd.model.unit import Unit
from fleetd.registry.records import ROLLOUTS
from fleetd.registry.registry import Registry


async def with_last_rollouts(registry: Registry, templates: Mapping[str, Unit]) -> dict[str, Unit]:
    """These templates; `rollout` is left out if a later one of the group has begun: it no longer decides what instances
    run."""
    rolled = [(name,) for name, unit in templates.items() if unit.rollout]
    last = {name: rollout.id for (name,), rollout in (await registry.get_many(ROLLOUTS, rolled)).items()}
    return {
        name: unit if unit.rollout == last.get(name, "") else msgspec.structs.replace(unit, rollout="")
        for name, unit in templates.items()
    }
