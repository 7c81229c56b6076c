"""What a fleetd that is being stopped does about its machine's units: keep them, park the machine, or leave."""

from enum import StrEnum


class ShutdownMode(StrEnum):
    """What becomes of the machine's units and registration."""

    STAY = "stay"  # keep units and lease: the next fleetd takes over, and the others notice nothing
    PARK = "park"  # keep the units, on a long lease without heartbeats
    LEAVE = "leave"  # have each unit placed elsewhere once it has stopped here


def plan_shutdown(*, job: str, machine_is_stopping: bool, supervised: bool) -> ShutdownMode:
    """Decide by the job that systemd has queued for fleetd's own unit (restart, stop, … or '' for none).

    `supervised`: systemd started fleetd, and so restarts it if it is killed.
    """
    if machine_is_stopping:
        return ShutdownMode.LEAVE
    if job == "stop" or not (job or supervised):
        return ShutdownMode.PARK
    return ShutdownMode.STAY
