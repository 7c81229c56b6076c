"""What the queue of reboots goes by besides the records: the settings of the cluster, and the health of the store."""

import msgspec

from fleetd.model.reboot_window import RebootWindow

HEALTH_COUNTS_S = 5.0  # after that, the store is asked again


class RebootPolicy(msgspec.Struct, frozen=True):
    """When machines may begin to reboot (`windows`; none: always), how many at a time, and whether those that need it
    are rebooted without being asked."""

    windows: tuple[RebootWindow, ...] = ()
    slots: int = 1
    when_required: bool = False


ONE_AT_A_TIME = RebootPolicy()


class StoreHealth(msgspec.Struct, frozen=True):
    """The ids of those members of the store that did not answer when asked, at `asked_s` on the leader's clock."""

    asked_s: float
    unhealthy: tuple[str, ...] = ()
