"""What a fleetd gets from the process and the machine that it runs on."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from fleetd.agent.answers import Inspects
from fleetd.agent.fetcher import Fetcher
from fleetd.agent.ledger import Ledger
from fleetd.agent.prober import Prober
from fleetd.aio import Offload
from fleetd.membership.parking import Parking
from fleetd.trust.sealing_process import Sealing


async def _leave_unparked(parking: Parking) -> None:
    """The default: nothing parks the machine later."""


async def _is_elsewhere(_host: str) -> bool:
    """The default: no name is this machine's."""
    return False


class HostEnvironment(msgspec.Struct, frozen=True):
    """What a Node gets from the process it runs in; the simulator supplies its own.

    `runtime` is a directory that a reboot empties. `own_unit` is fleetd's systemd unit, '' if systemd does not
    supervise it. `park_later` has a process that outlives this one park the machine once the store answers
    (deferred_parking.py). `find_address` returns the current address, '' if there is none or it is not to be followed;
    `find_host_keys` the public keys of the machine's SSH server; `find_reboot_need` why the machine wants to be
    rebooted, '' if it does not; `is_own_host` whether others reach this machine by that name or address. `host_name` is
    its own name, '' if it has none. `unix_now` is the wall clock in seconds; `new_id` returns a unique string. `audit`
    keeps the fields of an entry for each change through the API. `sealing` seals and opens secrets with this machine's
    key; without it, the machine takes no unit that has any. `inspector` reads what units log here and what systemd says
    of them, for users who ask through the API; without it, such requests are not answered. `prober` carries out the
    checks of units (Check=); None: on this host. `boot_now` is the machine's boot clock, by which systemd's lease ends;
    None: the event loop's. `fetcher` downloads what units need before they start; None: nothing.
    """

    runtime: Path
    open_ledger: Callable[[Path], Ledger] = Ledger
    own_unit: str = ""
    find_address: Callable[[], str] = lambda: ""
    find_host_keys: Callable[[], tuple[str, ...]] = lambda: ()
    find_reboot_need: Callable[[], str] = lambda: ""
    is_own_host: Callable[[str], Awaitable[bool]] = _is_elsewhere
    host_name: str = ""
    unix_now: Callable[[], float] = time.time
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    offload: Offload = asyncio.to_thread
    park_later: Callable[[Parking], Awaitable[None]] = _leave_unparked
    audit: Callable[[Mapping[str, str]], None] = lambda fields: None
    sealing: Sealing | None = None
    inspector: Inspects | None = None
    prober: Prober | None = None
    boot_now: Callable[[], float] | None = None
    fetcher: Fetcher | None = None
