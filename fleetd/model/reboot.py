"""Reboots of machines: what an operator or a FleetLock client asks for, and how far the leader has got with it."""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from fleetd.model.decoding import FORMAT, Count

DRAIN_WITHIN_S = 900.0  # where nothing else was asked for
RETURN_WITHIN_S = 600.0  # after the order, a machine is to be back and to serve
CLIENT_ASKS_WITHIN_S = 1800.0  # a FleetLock client is to ask again whether its machine may reboot
WHEN_REQUIRED = "reboot_when_required"  # who asks for reboots that machines need, by that setting


class RebootRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """A machine is to be rebooted. Stored under `reboot-requests/<machine>` by the API, until the leader has found the
    machine back, or has given up.

    `id` is unique. `boot_id` is that of the boot that is to be ended: another boot has nothing to do with it. `by` is
    the user who asked for it, '' if unknown, and `at` when (Unix time). `drain_within_s` counts from Reboot.began: what
    still runs there then is left, and the machine is not rebooted (0: there is no such deadline). `now`: outside the
    reboot window, too. `client` is the id that a FleetLock client gave, which reboots the machine by itself; '': its
    fleetd reboots it. `granted` is when that client was told that it may (Unix time, 0: not yet): it asks every few
    minutes only. `revision` is the store's revision of this record, which guards its deletion; it is not part of the
    stored value.
    """

    id: str
    boot_id: str
    by: str = ""
    at: float = 0.0
    drain_within_s: float = 0.0
    now: bool = False
    client: str = ""
    granted: float = 0.0
    revision: Count = 0


def in_order(requests: Mapping[str, RebootRequest]) -> list[str]:
    """The machines that are to be rebooted, in the order in which they get slots: whose reboot was asked for first."""
    return sorted(requests, key=lambda machine: (requests[machine].at, machine))


class RebootPhase(StrEnum):
    """How far the reboot of a machine that has a slot has got."""

    DRAINING = "draining"  # its units move to other machines
    ORDERED = "ordered"  # it is to reboot: its fleetd asks systemd-logind, or the FleetLock client was told that it may
    RETURNING = "returning"  # it has a new boot: it is registered, and its units are not all active yet
    GAVE_UP = "gave-up"  # it was not rebooted, or has not come back healthy; `failure` says why


class RebootFailure(StrEnum):
    """Why a reboot did not come to its end."""

    DEADLINE = "deadline"  # units still ran there, or those that stay were needed, at the deadline: it lost its slot
    NOT_BACK = "not-back"  # the machine has not come back in ten minutes: the slot is kept, and the queue stops
    NOT_SERVING = "not-serving"  # it is back, and units are not active on it after ten minutes: the same
    REFUSED = "refused"  # it will not reboot, for the reason in Reboot.detail: slot and cordon are released
    RESTORED = "restored"  # the store was restored: what was asked for may lie hours back: the same
    CANCELLED = "cancelled"  # an operator cancelled what reboot_when_required had begun: not again for this boot


class Reboot(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """The reboot of one machine that has a slot, or the last one that was given up. Stored under `reboots/<machine>` by
    the leader alone; deleted when the machine serves again.

    `id`, `boot_id`, `by` and `client` are those of the request, `etcd_member` is that of the machine. `began` is when
    it got its slot, `deadline` when it is given up if units still run there (0: never), `ordered` when it was told to
    reboot (0: it was not), `changed` when its phase changed: Unix times. `kept` are the units that stay on the machine
    and are down while it reboots: global ones, and those that fit nowhere else. `awaited` are those of them that were
    available before, and for which the machine waits when it is back. `waits` are, while it drains or returns, the
    first units that it waits for; once it was given up, those that it had waited for. `revision` is the store's
    revision of this record, which guards the next write; it is not part of the stored value.
    """

    id: str
    boot_id: str
    phase: RebootPhase = RebootPhase.DRAINING
    failure: RebootFailure | None = None
    detail: str = ""
    by: str = ""
    client: str = ""
    etcd_member: str = ""
    began: float = 0.0
    deadline: float = 0.0
    ordered: float = 0.0
    changed: float = 0.0
    kept: tuple[str, ...] = ()
    awaited: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()
    revision: Count = 0

    def ends(self, boot_id: str) -> bool:
        """True if it is to end this boot, now."""
        return self.phase is RebootPhase.ORDERED and self.boot_id == boot_id

    @property
    def holds_slot(self) -> bool:
        """True while the machine counts as one that does not serve: no other may take its slot."""
        return self.failure in (None, *STOPS_QUEUE)

    @property
    def stops_queue(self) -> bool:
        """True if no other machine may begin to reboot before this one serves, or its request is cancelled."""
        return self.failure in STOPS_QUEUE

    @property
    def is_under_way(self) -> bool:
        """True until it is given up."""
        return self.phase is not RebootPhase.GAVE_UP

    @property
    def kept_until(self) -> float:
        """Until when (Unix time) the kept units wait for the machine; 0 if they do not."""
        waits = self.phase in (RebootPhase.ORDERED, RebootPhase.RETURNING)
        return self.ordered + RETURN_WITHIN_S if waits else 0.0


STOPS_QUEUE = (RebootFailure.NOT_BACK, RebootFailure.NOT_SERVING)


class RebootRefusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a machine says of a reboot that was ordered and that it is not going to make: `order` is the id of the
    Reboot, `why` says who refused it and for what reason."""

    order: str
    why: str
