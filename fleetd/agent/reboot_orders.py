"""The reboot that the leader orders of this machine: systemd is asked for it once, even if fleetd is restarted."""

import logging
from collections.abc import Callable

from fleetd.agent.ledger import AskedReboot, Ledger
from fleetd.model.reboot import Reboot, RebootRefusal
from fleetd.systemd.protocol import REBOOT, ManagerUnavailable, ServiceManager, ServiceManagerError

log = logging.getLogger(__name__)

_OUTLIVED = "the store was restored since it was ordered"


class RebootOrders:
    """`boot_id` is that of the boot in which this fleetd runs: orders for others are not for it. `on_refusal` is called
    when there is a new refusal to publish."""

    def __init__(self, systemd: ServiceManager, ledger: Ledger, boot_id: str, on_refusal: Callable[[], None]) -> None:
        self._systemd = systemd
        self._ledger = ledger
        self._boot_id = boot_id
        self._on_refusal = on_refusal

    @property
    def refusal(self) -> RebootRefusal | None:
        """Why the last order of this boot was not carried out; None if it was, or if there was none."""
        asked = self._ledger.reboot
        return RebootRefusal(asked.order, asked.refusal) if asked and asked.refusal else None

    def is_due(self, reboot: Reboot | None) -> bool:
        """True if this record ends this boot: by fleetd, or by the FleetLock client that asked for it."""
        return reboot is not None and reboot.ends(self._boot_id)

    def is_imminent(self, reboot: Reboot | None) -> bool:
        """True if this boot is about to end: it is ordered, and was not refused."""
        refusal = self.refusal
        return self.is_due(reboot) and not (refusal and reboot and refusal.order == reboot.id)

    def forget(self, reboot: Reboot | None) -> None:
        """Do not carry out this order: it stood in a store that was restored."""
        if reboot is not None and self._is_new(reboot):
            self._answer(reboot, _OUTLIVED)

    async def carry_out(self, reboot: Reboot | None) -> None:
        """Have the machine rebooted if this is an order to do so which has not been answered. Raises
        ManagerUnavailable: then it has to be called again."""
        if reboot is None or not self._is_new(reboot) or await self._systemd.machine_is_stopping():
            return
        log.warning("this machine is rebooted, as ordered by the leader", extra={"by": reboot.by, "order": reboot.id})
        try:
            await self._systemd.reboot_machine()
        except ManagerUnavailable:
            raise
        except ServiceManagerError as error:
            log.error("this machine is not rebooted: %s", error)
            self._answer(reboot, str(error).removeprefix(f"{REBOOT}: "))
        else:
            self._answer(reboot, "")

    def _is_new(self, reboot: Reboot) -> bool:
        asked = self._ledger.reboot
        is_known = asked is not None and asked.order == reboot.id
        return self.is_due(reboot) and not reboot.client and not is_known

    def _answer(self, reboot: Reboot, refusal: str) -> None:
        self._ledger.put_reboot(AskedReboot(reboot.id, refusal))
        if refusal:
            self._on_refusal()
