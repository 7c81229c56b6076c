"""This machine's id, boot id and address, and the name of this process. Read at start and at a reload."""

import asyncio
import ipaddress
import re
import shutil
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fleetd.model.ip_address import is_ip_address

MACHINE_ID_PATH = Path("/etc/machine-id")
REBOOT_REQUIRED_PATH = Path("/run/reboot-required")
PACKAGES, PACKAGE_LENGTH = 5, 64  # as many are named
BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
_ANYWHERE = "192.0.2.1"  # a documentation address (RFC 5737); looking up its route sends nothing


class IdentityError(Exception):
    """This machine has no valid machine-id. The message names the file and the remedy."""


def read_machine_id(path: Path = MACHINE_ID_PATH) -> str:
    """Return the machine-id, 32 hexadecimal digits. Raises IdentityError."""
    remedy = f"remove {path} and run systemd-machine-id-setup, then start fleetd again"
    try:
        text = path.read_text(errors="replace").strip()
    except OSError as error:
        raise IdentityError(
            f"unable to determine local machine ID: {path}: {error.strerror}; run systemd-machine-id-setup"
        ) from error
    if not text:
        raise IdentityError(f"unable to determine local machine ID: {path} is empty; {remedy}")
    if not _MACHINE_ID.fullmatch(text):
        raise IdentityError(
            f"unable to determine local machine ID: {path} holds {text[:40]!r}, not 32 hexadecimal digits; {remedy}"
        )
    return text


def read_boot_id(path: Path = BOOT_ID_PATH) -> str:
    """Return the kernel's id of this boot."""
    return path.read_text().strip()


def begin_boot(directory: Path, boot_id: str) -> None:
    """Empty a directory for what outlives fleetd but not the boot, unless this boot filled it. For where no reboot does
    that: what a user's systemd ran ends with it, and the user's files may stay. Raises OSError."""
    marker = directory / "boot"
    if marker.exists() and marker.read_text() == boot_id:
        return
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    marker.write_text(boot_id)


def find_address() -> str:
    """Return the IPv4 source address of this machine's default route, as CoreOS fleet does, or '' if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_ANYWHERE, 9))
        except OSError:
            return ""
        address: str = probe.getsockname()[0]
    return "" if address.startswith(("0.", "127.")) else address


async def is_own_host(host: str) -> bool:
    """True if others reach this machine by this name or IP address: it is that of a network interface other than the
    loopback one."""
    try:
        addresses = [host] if is_ip_address(host) else await _resolve(host)
        return any(map(_is_own_address, addresses))
    except OSError:  # no such name, or no route
        return False


async def _resolve(host: str) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    return [str(place[0]) for *_, place in found]


def _is_own_address(address: str) -> bool:
    """What this machine sends to an address of its own comes from that address. Nothing is sent here."""
    wanted = ipaddress.ip_address(address)
    with socket.socket(socket.AF_INET6 if wanted.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return not wanted.is_loopback and ipaddress.ip_address(probe.getsockname()[0]) == wanted


def find_reboot_need(path: Path = REBOOT_REQUIRED_PATH) -> str:
    """Return why the machine wants to be rebooted, as the distribution says after updates: for which packages, or the
    file that says so. '' if it does not."""
    if not path.exists():
        return ""
    try:
        packages = sorted(set(path.with_name(path.name + ".pkgs").read_text(errors="replace").split()))
    except OSError:
        packages = []
    if not packages:
        return f"{path} exists"
    more = f" and {len(packages) - PACKAGES} more" if len(packages) > PACKAGES else ""
    return ", ".join(name[:PACKAGE_LENGTH] for name in packages[:PACKAGES] if name.isprintable()) + more


def name_process(name: str, arguments: Sequence[str]) -> None:
    """Name this process after the program instead of its interpreter.

    `ps`, `pidof` and `killall` look at comm and the first word of cmdline (proc(5)); the latter is in the process's own
    memory. If the kernel does not allow writing there, the name stays as it is.
    """
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)
        _, _, fields = Path("/proc/self/stat").read_text().rpartition(")")
        start, end = map(int, fields.split()[45:47])  # arg_start, arg_end
        words = b"\0".join(word.encode(errors="surrogateescape") for word in (name, *arguments))
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(words[: end - start - 1].ljust(end - start, b"\0"))
