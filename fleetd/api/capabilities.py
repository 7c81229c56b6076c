"""Whether every machine knows what a request asks for: an older fleetd would pass over it, and run the wrong thing."""

from fleetd.api.http import ApiError
from fleetd.model.machine import Capability, Machine, outdated_machine
from fleetd.registry.registry import Reader

_WORDS = {
    Capability.DROPINS: "drop-ins",
    Capability.CORDON: "cordons and drains",
    Capability.CLUSTER_SETTINGS: "settings of the cluster",
    Capability.MOVES: "moves of units",
    Capability.PROOFS: "rollouts",
}


async def check_capability(registry: Reader, capability: Capability) -> None:
    """Raises ApiError if the fleetd of a registered machine does not have this capability."""
    if machine := outdated_machine((await registry.machines()).values(), capability):
        raise ApiError(409, f"{_WORDS[capability]} cannot be used yet: {_describe(machine)}; update fleetd there first")


def _describe(machine: Machine) -> str:
    place = f"{machine.short_id} ({machine.address})" if machine.address else machine.short_id
    version = f"fleetd {machine.version}" if machine.version else "an older fleetd"
    return f"machine {place} runs {version}, which does not know of them"
