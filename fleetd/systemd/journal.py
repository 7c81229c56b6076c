"""Reads a unit's last log lines with journalctl."""

import asyncio
import contextlib

LINES = 10
TIMEOUT_S = 5.0


async def last_lines(unit: str, *, user: bool) -> list[str]:
    """Return the last lines logged by this unit, or by systemd about it, oldest first; none if there is no journal, or
    it does not answer in time."""
    scope = "--user-unit" if user else "--unit"
    argv = ("journalctl", f"{scope}={unit}", f"--lines={LINES}", "--output=cat", "--no-pager", "--quiet")
    quiet = asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(*argv, stdin=quiet, stdout=asyncio.subprocess.PIPE, stderr=quiet)
    except OSError:
        return []
    try:
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        return []
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return output.decode("utf-8", "replace").splitlines()
