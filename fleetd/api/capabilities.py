"""Whether every machine knows what a request asks for: an older fleetd would pass over it, and run the wrong thing."""

from collections.abc import Iterable

from fleetd.api.http import ApiError
from fleetd.model.announce_options import ANNOUNCE, announce_options_of
from fleetd.model.content import Content
from fleetd.model.download import FETCH
from fleetd.model.group import UpdateAction
from fleetd.model.isolation_options import ISOLATION, LOCK, isolation_options_of
from fleetd.model.machine import Capability, Machine, outdated_machine
from fleetd.model.names import is_template
from fleetd.model.requirements import requirements_of
from fleetd.model.unit_set import group_options_of
from fleetd.registry.registry import Reader

_UPDATE_ACTION = "UpdateAction"
_ANY = "any@1.service"
_WORDS = {
    Capability.DROPINS: "drop-ins",
    Capability.CORDON: "cordons and drains",
    Capability.CLUSTER_SETTINGS: "settings of the cluster",
    Capability.MOVES: "moves of units",
    Capability.PROOFS: "rollouts",
    Capability.UPDATE_ACTION: f"other values of {_UPDATE_ACTION}= than auto",
    Capability.REBOOTS: "reboots",
    Capability.SECRETS: "secrets",
    Capability.ANNOUNCEMENTS: f"{ANNOUNCE}=",
    Capability.ISOLATION: f"{ISOLATION}= and {LOCK}=",
    Capability.DOWNLOADS: f"{FETCH}=",
    Capability.ANSWERS: "logs and states without SSH",
}


def needed_capability(before: Content | None, after: Content | None) -> Capability | None:
    """What a fleetd has to know so as not to run this content, where it is new, in another way than it says."""
    if after is None or after == before:
        return None
    # The newest first: a fleetd that knows one of these knows those after it as well.
    if isolation_options_of(after, _ANY).is_set:
        return Capability.ISOLATION
    if any(FETCH in text for text in _texts(after)) and requirements_of(after, _ANY).downloads:
        return Capability.DOWNLOADS
    if announce_options_of(after, _ANY).services:
        return Capability.ANNOUNCEMENTS
    has_action = any(_UPDATE_ACTION in text for text in _texts(after))
    return Capability.UPDATE_ACTION if has_action and group_options_of(after).action is not UpdateAction.AUTO else None


def refuse_short_isolation(name: str, before: Content | None, after: Content | None, agent_ttl_s: float) -> None:
    """Raises ApiError if a unit is given less time than a machine may be silent: it would be stopped whenever the store
    is late for a moment. `agent_ttl_s` is that of this fleetd, which the others have as well."""
    if after is None or after == before:
        return
    asked = isolation_options_of(after, _ANY if is_template(name) else name)
    if asked.is_set and asked.isolation_s < agent_ttl_s:
        raise ApiError(
            400,
            f"{name}: {ISOLATION}={asked.isolation_s:g}s is shorter than agent_ttl={agent_ttl_s:g}s (fleet.conf), for "
            f"which a machine may be silent: write {ISOLATION}={agent_ttl_s:g}s or more",
        )


def _texts(content: Content) -> tuple[str, ...]:
    return (content.text, *(dropin.text for dropin in content.dropins))


async def check_capability(registry: Reader, capability: Capability) -> None:
    """Raises ApiError if the fleetd of a registered machine does not have this capability."""
    refuse_outdated((await registry.machines()).values(), capability)


def refuse_outdated(machines: Iterable[Machine], capability: Capability) -> None:
    """Raises ApiError if the fleetd of one of these machines does not have this capability."""
    if machine := outdated_machine(machines, capability):
        raise ApiError(409, f"{_WORDS[capability]} cannot be used yet: {_describe(machine)}; update fleetd there first")


def _describe(machine: Machine) -> str:
    place = f"{machine.short_id} ({machine.address})" if machine.address else machine.short_id
    version = f"fleetd {machine.version}" if machine.version else "an older fleetd"
    return f"machine {place} runs {version}, which does not know of them"
