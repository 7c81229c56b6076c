"""What a fleetd that is told to end does about its machine's units: nothing, park the machine, or have it leave."""

from enum import StrEnum


class ShutdownMode(StrEnum):
    """The ways to go (design: "Leaving, staying, parking")."""

    STAY = "stay"  # units and lease are kept: the next fleetd takes over, and nobody notices
    PARK = "park"  # units are kept, under a long lease without heartbeats
    LEAVE = "leave"  # units go elsewhere, each once it has stopped here


def plan_shutdown(*, job: str, machine_is_stopping: bool, supervised: bool) -> ShutdownMode:
    """How to go, by what systemd has queued for our own unit (`job`: restart, stop, … or '' for none).

    `supervised` says that systemd started us, and so will start us again after a kill that it did not ask for.
    """
    if machine_is_stopping:
        return ShutdownMode.LEAVE
    if job == "stop" or not (job or supervised):
        return ShutdownMode.PARK
    return ShutdownMode.STAY
