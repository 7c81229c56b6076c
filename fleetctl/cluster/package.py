"""Brings fleet to a machine: the Debian package that this one has, or one of the machine's own repositories."""

import os
from collections.abc import Sequence
from pathlib import Path

from fleetctl.cluster.host import Host
from fleetctl.errors import CommandFailed, cause_of

PLACES = (".", "~", "/var/cache/apt/archives")
APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120")
INSTALL = (*APT, "install", "--yes", "--no-install-recommends")
_VERSION = ("dpkg-query", "--show", "--showformat=${db:Status-Abbrev}${Version}", "fleet")
_NEWER = 'dpkg --compare-versions "$1" ge "$2"'


def installed_version(host: Host) -> str:
    """The version of the package fleet, '' if it is not installed."""
    done = host.try_to(*_VERSION)
    return done.output[3:].strip() if not done.status and done.output.startswith("ii") else ""


def install_fleet(host: Host, here: Host, given: str) -> str:
    """Install fleet, at least in the version of this machine; returns what was done in words, '' if nothing. `given` is
    the package to copy, '' to look for it. Raises CommandFailed."""
    own, present = installed_version(here), installed_version(host)
    has_program = bool(present) or host.try_to("sh", "-c", "command -v fleetd").status == 0
    if not given and has_program and (not own or _is_at_least(here, present, own)):
        return ""
    if host.try_to("sh", "-c", "command -v apt-get").status:
        raise CommandFailed(f"{host.name}: there is no apt-get: install fleet there by hand, then run this again")
    package = Path(given) if given else find_package(own)
    if package is None:
        done = host.try_to(*INSTALL, "fleet")
        if done.status:
            raise CommandFailed(
                f"{host.name}: fleet is not installed there, its repositories have none, and there is no "
                f"{name_of(own)} here: give the package with --package=FILE"
            )
        return f"Installed fleet {installed_version(host)} on {host.name}, from its repositories"
    _install_file(host, package)
    return f"Installed {package.name} on {host.name}"


def name_of(version: str) -> str:
    """The name of the package's file, as far as it is known."""
    return f"fleet_{version or '…'}_ARCHITECTURE.deb"


def find_package(version: str, places: Sequence[str] = PLACES) -> Path | None:
    """The newest file of the package of this version ('' for any) in one of these folders, None if there is none. What
    others than root and the user have put there, as in /tmp, is not looked at."""
    own = {0, os.geteuid()}
    for place in places:
        every = Path(os.path.expanduser(place)).glob(f"fleet_{version or '*'}_*.deb")
        found = [path for path in every if path.is_file() and {path.stat().st_uid, path.lstat().st_uid} <= own]
        if newest := max(found, key=lambda path: path.stat().st_mtime, default=None):
            return newest
    return None


def _install_file(host: Host, package: Path) -> None:
    inside = f"/var/cache/apt/archives/{package.name}"  # which root alone writes to
    try:
        with package.open("rb") as file:
            host.run("sh", "-c", 'cat >"$1"', "sh", inside, doing=f"copy {package} there", stdin=file)
    except OSError as error:
        raise CommandFailed(f"open {package}: {cause_of(error)}") from error
    done = host.try_to(*INSTALL, inside)
    if done.status:  # perhaps what it depends on is not known there yet
        host.try_to(*APT, "update")
        done = host.try_to(*INSTALL, inside)
    host.try_to("rm", "-f", inside)
    if done.status:
        raise CommandFailed(f"{host.name}: {package.name} could not be installed: {done.last_words}")


def _is_at_least(here: Host, version: str, least: str) -> bool:
    return here.try_to("sh", "-c", _NEWER, "sh", version, least).status == 0
