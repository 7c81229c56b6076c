"""Reboots of this machine: asked of systemd-logind, which knows who holds an inhibitor lock, or of systemd alone."""

from typing import Any

from fleetd.systemd.dbus_connection import BUS, NOBODY_THERE, RefusedBySystemd, SystemBus
from fleetd.systemd.protocol import REBOOT, Inhibited

LOGIND = "org.freedesktop.login1"
LOGIND_PATH = "/org/freedesktop/login1"
_UNKNOWN_METHOD = f"{BUS}.Error.UnknownMethod"
_HEED_INHIBITORS = 1 << 0  # SD_LOGIND_ROOT_CHECK_INHIBITORS: else they do not count for root


async def reboot_machine(bus: SystemBus) -> None:
    """Have systemd-logind reboot this machine, as `systemctl reboot` does; where it does not run, start reboot.target.
    See ServiceManager.reboot_machine."""
    try:
        await _check_inhibitors(bus)
    except RefusedBySystemd as error:
        if error.code not in NOBODY_THERE:
            raise
        await bus.call(REBOOT, "StartUnit", "ss", "reboot.target", "replace-irreversibly")
        return
    try:
        await _ask(bus, "RebootWithFlags", "t", _HEED_INHIBITORS)
    except RefusedBySystemd as error:
        if error.code != _UNKNOWN_METHOD:
            raise
        await _ask(bus, "Reboot", "b", False)  # before systemd 246


async def _check_inhibitors(bus: SystemBus) -> None:
    [locks] = await _ask(bus, "ListInhibitors")
    for what, who, why, mode, _, process in locks:
        if mode.startswith("block") and "shutdown" in what.split(":"):
            raise Inhibited(REBOOT, who, why, process)


async def _ask(bus: SystemBus, member: str, signature: str = "", *body: object) -> list[Any]:
    return await bus.call(
        REBOOT,
        member,
        signature,
        *body,
        path=LOGIND_PATH,
        interface=f"{LOGIND}.Manager",
        destination=LOGIND,
    )
