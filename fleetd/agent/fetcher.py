"""Gets images of containers for this machine: podman pulls each in a transient unit of systemd, `fleet-pull-….service`,
which is seen in systemctl, takes little from what runs here, and ends after a time."""

import asyncio
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from fleetd.model.download import Download, FetchFailed, describe_failure

WITHIN_S = 1800.0  # a download that has not ended by then has failed
LOOK_S = 60.0  # podman waits while another one changes its storage
PULL, LOOK = "pull", "look"
WAIT_S = 0.5  # between looks at a download that an earlier fleetd has begun
MAX_SAID = 4096  # bytes of what a program writes
LIMITS = ("CPUWeight=20", "IOWeight=20", "MemoryMax=1G", "Nice=10", "OOMScoreAdjust=500")
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


class LeftToPodman:
    """Gets nothing ahead: podman pulls what a container lacks when it starts."""

    async def find(self, download: Download) -> bool:
        """True (Fetcher)."""
        return True

    async def fetch(self, download: Download) -> None:
        """Nothing is to be got (Fetcher)."""

    async def cancel(self, download: Download) -> None:
        """Nothing is under way (Fetcher)."""


class HostFetcher:
    """Gets downloads for this host, or for the `user` whose systemd runs the units. `auth_file` holds the logins for
    registries ('': podman's own)."""

    def __init__(self, *, user: bool = False, auth_file: str = "") -> None:
        self._scope = ["--user"] if user else []
        self._auth = [f"--authfile={auth_file}"] if auth_file else []

    async def find(self, download: Download) -> bool:
        """True if it is here (Fetcher)."""
        inspect = ["podman", "image", "inspect", "--format", "{{.Architecture}}", "--", download.source]
        status, found, _ = await self._run_unit(download, LOOK, LOOK_S, inspect)
        own = os.uname().machine
        if status == 0 and found != _MACHINES.get(own, found) and not _emulates():
            raise FetchFailed(describe_failure(download, f"it is for the architecture {found}, and not for {own}"))
        return status == 0

    async def fetch(self, download: Download) -> None:
        """Get it (Fetcher)."""
        pull = ["podman", "pull", "--quiet", *self._auth, "--", download.source]
        status, _, said = await self._run_unit(download, PULL, WITHIN_S, pull)
        if status != 0:
            raise FetchFailed(describe_failure(download, said or f"it did not come within {WITHIN_S:g} s"))
        if not await self.find(download):
            raise FetchFailed(describe_failure(download, "podman says that it is here, and does not find it"))

    async def _run_unit(
        self, download: Download, kind: str, within_s: float, command: Sequence[str]
    ) -> tuple[int, str, str]:
        """Run a program in a transient unit: fleetd itself may neither mount nor write what podman does. Returns as
        _run. Raises FetchFailed."""
        unit = unit_of(download, kind)
        properties = [f"--property={limit}" for limit in (*LIMITS, f"RuntimeMaxSec={within_s:g}")]
        run = ["systemd-run", *self._scope, f"--unit={unit}", f"--description=fleet: {kind} {download.source}"]
        run += ["--wait", "--pipe", "--collect", "--quiet", *properties, "--", *command]
        try:
            await self._wait_for_earlier(unit)
            status, written, said = await _run(run)
        except OSError as error:
            raise FetchFailed(describe_failure(download, f"systemd-run is not installed ({error.strerror})")) from error
        if status != 0 and said.startswith(_NO_PROGRAM):
            raise FetchFailed(describe_failure(download, "podman is not installed"))
        return status, written, said

    async def cancel(self, download: Download) -> None:
        """End it (Fetcher)."""
        await _run(["systemctl", *self._scope, "stop", "--no-block", "--quiet", unit_of(download, PULL)])

    async def _wait_for_earlier(self, unit: str) -> None:
        """Wait for the end of a download that an earlier fleetd has begun."""
        while True:
            status, said, _ = await _run(["systemctl", *self._scope, "show", "--property=ActiveState", "--value", unit])
            if status != 0 or said not in ("active", "activating", "deactivating"):
                return
            await asyncio.sleep(WAIT_S)


def unit_of(download: Download, kind: str) -> str:
    """The transient unit that looks for a download, or gets it."""
    return f"fleet-{kind}-{hashlib.sha256(download.source.encode()).hexdigest()[:16]}.service"


def _emulates() -> bool:
    """True if this machine may run programs for other architectures."""
    try:
        return any(name.startswith("qemu-") for name in os.listdir(_EMULATORS))
    except OSError:
        return False


async def _run(command: Sequence[str]) -> tuple[int, str, str]:
    """The exit status of a program, the first line that it writes, and the last line of its errors. It is killed when
    nobody waits for it any more. Raises OSError."""
    pipe, quiet = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdin=quiet, stdout=pipe, stderr=pipe)
    try:
        written, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())
    said = written[:MAX_SAID].decode("utf-8", "replace").strip().splitlines()
    failed = errors[-MAX_SAID:].decode("utf-8", "replace").strip().splitlines()
    return process.returncode or 0, said[0] if said else "", failed[-1] if failed else ""
