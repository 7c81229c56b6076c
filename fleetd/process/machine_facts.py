"""What may change of this machine while fleetd runs, and is published then: its address, the host keys of its
SSH server, when its certificate expires, whether it wants to be rebooted, the reboot that it was refused, and which
member of the store's etcd runs on it.

All of it is looked at when a heartbeat was answered, so that nothing wakes a machine at rest for it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from fleetd.membership.registration import Membership
from fleetd.model.reboot import RebootRefusal
from fleetd.store.protocol import StoreError

log = logging.getLogger(__name__)


class MachineFacts:
    """Follows the facts until `run` is cancelled. `find_address` returns the machine's address, '' if there is none at
    present; `find_host_keys` the public keys of its SSH server; `find_reboot_need` why it wants to be rebooted, '' if
    it does not; `find_certificate_end` when its certificate expires; `is_own_host` whether others reach this machine by
    that name or address."""

    def __init__(
        self,
        membership: Membership,
        *,
        find_address: Callable[[], str],
        find_host_keys: Callable[[], tuple[str, ...]],
        find_reboot_need: Callable[[], str],
        find_refusal: Callable[[], RebootRefusal | None],
        find_certificate_end: Callable[[], float],
        is_own_host: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._membership = membership
        self._find_address = find_address
        self._find_host_keys = find_host_keys
        self._find_reboot_need = find_reboot_need
        self._find_refusal = find_refusal
        self._find_certificate_end = find_certificate_end
        self._is_own_host = is_own_host
        self._woken = asyncio.Event()
        self._asked_s: float | None = None  # since when the store had been well when it was asked for its members
        machine = membership.machine
        self._published: dict[str, Any] = {
            "address": machine.address,
            "host_keys": machine.host_keys,
            "reboot_required": machine.reboot_required,
            "reboot_refused": machine.reboot_refused,
            "etcd_member": machine.etcd_member,
            "certificate_expires_s": machine.certificate_expires_s,
        }

    def wake(self) -> None:
        """Look at the facts: a heartbeat was answered, or a reboot was refused."""
        self._woken.set()

    async def run(self) -> None:
        """Publish each change."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            found = await self._look()
            changed = {fact: value for fact, value in found.items() if value != self._published[fact]}
            if not changed:
                continue
            try:
                await self._membership.announce(**changed)
            except StoreError as error:
                log.warning("cannot publish what has changed of this machine, retrying: %s", error)
            else:
                self._published |= changed
                log.info("this machine has changed", extra={fact: str(value) for fact, value in changed.items()})

    async def _look(self) -> dict[str, Any]:
        """The facts as they are now; one that is not known is left out."""
        found: dict[str, Any] = {
            "host_keys": self._find_host_keys(),
            "reboot_required": self._find_reboot_need(),
            "reboot_refused": self._find_refusal(),
            "certificate_expires_s": self._find_certificate_end(),
        }
        address = self._find_address()
        found |= {"address": address} if address else {}
        well_since_s = self._membership.beats.well_since_s  # changes when the connection to the store was disturbed
        if well_since_s != self._asked_s:
            try:
                found["etcd_member"] = await self._find_etcd_member()
                self._asked_s = well_since_s
            except StoreError as error:
                log.debug("cannot ask the store for its members; asking again after the next heartbeat: %s", error)
        return found

    async def _find_etcd_member(self) -> str:
        """The id of the store's member that runs on this machine, '' if none does. Raises StoreError."""
        for member in await self._membership.store.members():
            for url in (*member.peer_urls, *member.client_urls):
                host = _host(url)
                if host and (host == self._membership.machine.address or await self._is_own_host(host)):
                    return member.id
        return ""


def _host(url: str) -> str:
    """The host of a URL, '' if it has none or is not one."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
