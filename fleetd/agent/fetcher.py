"""Gets images of containers and files for this machine, each in a transient unit of systemd, `fleet-pull-….service` or
`fleet-fetch-….service`, which is seen in systemctl, takes little from what runs here, and ends after a time."""

import asyncio
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from fleetd.agent.download_account import DownloadAccount
from fleetd.agent.fetched_files import FetchedFiles
from fleetd.agent.known_images import KnownImages
from fleetd.model.download import Download, FetchFailed, describe_failure

log = logging.getLogger(__name__)

WITHIN_S = 1800.0  # a download that has not ended by then has failed
LOOK_S = 60.0  # podman waits while another one changes its storage
PULL, LOOK, FETCH, REMOVE = "pull", "look", "fetch", "remove"
WAIT_S = 0.5  # between looks at a download that an earlier fleetd has begun
MAX_SAID = 4096  # bytes of what a program writes
LIMITS = ("CPUWeight=20", "IOWeight=20", "MemoryMax=1G", "Nice=10", "OOMScoreAdjust=500")
# Of what reads what strangers send.
CONFINED = (
    "CapabilityBoundingSet=",
    "MemoryDenyWriteExecute=yes",
    "NoNewPrivileges=yes",
    "PrivateDevices=yes",
    "PrivateTmp=yes",
    "ProtectHome=read-only",
    "ProtectSystem=strict",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "SystemCallFilter=@system-service",
)
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "i386": "386"}
_NO_PROGRAM = "Failed to find executable"
_EMULATORS = Path("/proc/sys/fs/binfmt_misc")


class Fetcher(Protocol):
    """What gets downloads for a machine."""

    async def find(self, download: Download) -> bool:
        """True if it is here already. Nothing is asked over the network. Raises FetchFailed if it is here and of no
        use."""

    async def fetch(self, download: Download) -> None:
        """Get it, however long that takes. One that is under way already is waited for. Raises FetchFailed."""

    async def cancel(self, download: Download) -> None:
        """End it, if it is under way."""

    def prepare(self, unit: str, downloads: Sequence[Download]) -> None:
        """Have the files among these, which are here, where the unit finds them, and no others. Raises OSError."""

    def forget(self, unit: str) -> None:
        """The unit is not on this machine any more."""

    @property
    def keeps_any(self) -> bool:
        """True if there is something that was downloaded here."""

    async def tidy(self, needed: Collection[Download]) -> None:
        """Delete what was downloaded here and has not been needed for a day; these are needed now."""


class LeftToPodman:
    """Gets nothing ahead: podman pulls what a container lacks when it starts."""

    async def find(self, download: Download) -> bool:
        """True (Fetcher)."""
        return True

    async def fetch(self, download: Download) -> None:
        """Nothing is to be got (Fetcher)."""

    async def cancel(self, download: Download) -> None:
        """Nothing is under way (Fetcher)."""

    def prepare(self, unit: str, downloads: Sequence[Download]) -> None:
        """There are no files (Fetcher)."""

    def forget(self, unit: str) -> None:
        """There are none (Fetcher)."""

    @property
    def keeps_any(self) -> bool:
        """False (Fetcher)."""
        return False

    async def tidy(self, needed: Collection[Download]) -> None:
        """There is nothing to delete (Fetcher)."""


class HostFetcher:
    """Gets downloads for this host, or for the `user` whose systemd runs the units. `auth_file` holds the logins for
    registries ('': podman's own). Files, and the account of what was downloaded, are below `directory`; `unix_now` is
    the wall clock; `systemd_run` and `systemctl` are the programs."""

    def __init__(
        self,
        directory: Path,
        *,
        user: bool = False,
        auth_file: str = "",
        unix_now: Callable[[], float] = time.time,
        systemd_run: str = "systemd-run",
        systemctl: str = "systemctl",
    ) -> None:
        self._files = FetchedFiles(directory / "fetched")
        self._images = KnownImages(is_readable=not user)
        self._account = DownloadAccount(directory / "downloads.json", unix_now)
        self._scope = ["--user"] if user else []
        self._systemd_run = systemd_run
        self._systemctl = systemctl
        self._auth = [f"--authfile={auth_file}"] if auth_file else []

    async def find(self, download: Download) -> bool:
        """True if it is here (Fetcher)."""
        if download.sha256:
            return self._files.has(download)
        if self._images.have(download.source):
            return True
        inspect = ["podman", "image", "inspect", "--format", "{{.Architecture}}", "--", download.source]
        status, found, _ = await self._run_unit(download, LOOK, LOOK_S, inspect)
        own = os.uname().machine
        if status == 0 and found != _MACHINES.get(own, found) and not _emulates():
            raise FetchFailed(describe_failure(download, f"it is for the architecture {found}, and not for {own}"))
        self._images.note(download.source, is_here=status == 0)
        return status == 0

    async def fetch(self, download: Download) -> None:
        """Get it (Fetcher)."""
        unit = unit_of(download, FETCH if download.sha256 else PULL)
        if not (await self._wait_for_earlier(unit) and await self.find(download)):
            await (self._fetch_file(download) if download.sha256 else self._pull(download))
        self._account.note(download)

    async def _pull(self, download: Download) -> None:
        pull = ["podman", "pull", "--quiet", *self._auth, "--", download.source]
        status, _, said = await self._run_unit(download, PULL, WITHIN_S, pull)
        if status != 0:
            raise FetchFailed(describe_failure(download, said or f"it did not come within {WITHIN_S:g} s"))
        if not await self.find(download):
            raise FetchFailed(describe_failure(download, "podman says that it is here, and does not find it"))

    def prepare(self, unit: str, downloads: Sequence[Download]) -> None:
        """Have files where a unit finds them (Fetcher)."""
        self._files.prepare(unit, downloads)

    def forget(self, unit: str) -> None:
        """Remove the names of files that a unit has (Fetcher)."""
        self._files.forget(unit)

    @property
    def keeps_any(self) -> bool:
        """True if something was downloaded here (Fetcher)."""
        return bool(self._account)

    async def tidy(self, needed: Collection[Download]) -> None:
        """Delete what is old (Fetcher). podman keeps an image that a container has, and one that has another name."""
        for download in self._account.find_old(needed):
            try:
                if download.sha256:
                    self._files.delete(download)
                else:
                    remove = ["podman", "rmi", "--", download.source]
                    status, _, said = await self._run_unit(download, REMOVE, LOOK_S, remove)
                    if status != 0 and await self.find(download):
                        log.info("%s is kept: %s", download, said)
                        self._account.note(download)  # looked at again in a day
                        continue
                log.info("deleted %s, which nothing here has needed for a day", download)
                self._account.forget(download)
            except (OSError, FetchFailed) as error:
                log.warning("cannot delete %s: %s", download, error)

    async def _fetch_file(self, download: Download) -> None:
        try:
            self._files.make_room()
        except OSError as error:
            raise FetchFailed(describe_failure(download, str(error))) from error
        command = [sys.executable, "-P", "-m", "fleetd.process.fetch_command"]
        command += [download.source, download.sha256, str(self._files.path_of(download))]
        confined = () if self._scope else (*CONFINED, f"ReadWritePaths={self._files.directory}")
        status, _, said = await self._run_unit(download, FETCH, WITHIN_S, command, confined)
        if status != 0 or not self._files.has(download):
            raise FetchFailed(describe_failure(download, said or f"it did not come within {WITHIN_S:g} s"))

    async def _run_unit(
        self, download: Download, kind: str, within_s: float, command: Sequence[str], more: Sequence[str] = ()
    ) -> tuple[int, str, str]:
        """Run a program in a transient unit: fleetd itself may neither mount nor write what podman does. Returns as
        _run. Raises FetchFailed."""
        unit = unit_of(download, kind)
        properties = [f"--property={limit}" for limit in (*LIMITS, *more, f"RuntimeMaxSec={within_s:g}")]
        run = [self._systemd_run, *self._scope, f"--unit={unit}", f"--description=fleet: {kind} {download.source}"]
        run += ["--wait", "--pipe", "--collect", "--quiet", *properties, "--"]
        run += [word.replace("$", "$$") for word in command]  # systemd would put variables of its own there
        try:
            status, written, said = await _run(run)
        except OSError as error:
            raise FetchFailed(describe_failure(download, f"systemd-run is not installed ({error.strerror})")) from error
        if status != 0 and said.startswith(_NO_PROGRAM):
            raise FetchFailed(describe_failure(download, "podman is not installed"))
        return status, written, said

    async def cancel(self, download: Download) -> None:
        """End it (Fetcher)."""
        unit = unit_of(download, FETCH if download.sha256 else PULL)
        await _run([self._systemctl, *self._scope, "stop", "--no-block", "--quiet", unit])

    async def _wait_for_earlier(self, unit: str) -> bool:
        """Wait for the end of a download that an earlier fleetd has begun, or that is being ended. Returns whether
        there was one."""
        show = [self._systemctl, *self._scope, "show", "--property=ActiveState", "--value", unit]
        has_waited = False
        while True:
            try:
                status, said, _ = await _run(show)
            except OSError:  # what comes next says so
                return False
            if status != 0 or said not in ("active", "activating", "deactivating"):
                return has_waited
            has_waited = True
            await asyncio.sleep(WAIT_S)


def unit_of(download: Download, kind: str) -> str:
    """The transient unit that looks for a download, or gets it. A fleetd finds again what an earlier one was getting,
    and nothing else of it."""
    hashed = hashlib.sha256(f"{download.source} {download.sha256}".encode()).hexdigest()[:16]
    own = "" if kind in (PULL, FETCH) else f"-{os.getpid()}"
    return f"fleet-{kind}-{hashed}{own}.service"


def _emulates() -> bool:
    """True if this machine may run programs for other architectures."""
    try:
        return any(name.startswith("qemu-") for name in os.listdir(_EMULATORS))
    except OSError:
        return False


async def _run(command: Sequence[str]) -> tuple[int, str, str]:
    """The exit status of a program, the first line that it writes, and the last line of its errors. It is killed when
    nobody waits for it any more: its end is not waited for, because what it runs in a unit of its own may go on with
    its pipes. Raises OSError."""
    pipe, quiet = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdin=quiet, stdout=pipe, stderr=pipe)
    try:
        written, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    said = written[:MAX_SAID].decode("utf-8", "replace").strip().splitlines()
    failed = errors[-MAX_SAID:].decode("utf-8", "replace").strip().splitlines()
    return process.returncode or 0, said[0] if said else "", failed[-1] if failed else ""
