"""Has secrets sealed by a process of its own (sealing.py), so that no daemon keeps `cryptography` in memory."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from fleetd.model.decoding import UNREADABLE
from fleetd.trust.sealing_wire import Answer, Encrypt, MakeKey, Request, Sealed, Share, ShareAll

COMMAND = (sys.executable, "-P", "-m", "fleetd.trust.sealing")
TIMEOUT_S = 30.0
PUBLIC, PRIVATE = "seal.pub", "seal.key"  # files in the trust directory

Ask = Callable[[Request], Awaitable[Answer]]


class SealingFailed(Exception):
    """Nothing was sealed. The message says why."""


async def ask_process(request: Request, command: Sequence[str] = COMMAND, timeout_s: float = TIMEOUT_S) -> Answer:
    """The answer of a process that is started for this request. Raises SealingFailed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise SealingFailed(f"cannot start {command[0]}: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout_s):
            output, errors = await process.communicate(msgspec.json.encode(request))
    except TimeoutError as error:
        raise SealingFailed(f"the process that seals secrets did not answer within {timeout_s:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        said = errors.decode(errors="replace").strip().splitlines()
        raise SealingFailed(said[-1] if said else f"the process that seals secrets ended with {process.returncode}")
    try:
        return msgspec.json.decode(output, type=Answer)
    except UNREADABLE as error:
        raise SealingFailed(f"the process that seals secrets answered no JSON: {error}") from error


class Sealing:
    """What one machine can seal and open. `directory` is that of its seal key; `ask` has a process answer."""

    def __init__(self, directory: Path, ask: Ask = ask_process) -> None:
        self._directory = directory
        self._ask = ask

    def find_public(self) -> str:
        """The public half of this machine's seal key, '' if it was not made yet."""
        try:
            return (self._directory / PUBLIC).read_text().strip() if (self._directory / PRIVATE).exists() else ""
        except (OSError, ValueError):
            return ""

    async def make_key(self) -> str:
        """Make the seal key, unless there is one. Returns its public half. Raises SealingFailed."""
        return (await self._ask(MakeKey(str(self._directory / PRIVATE)))).sealed[0].public

    async def encrypt(self, name: str, version: int, value: bytes, recipients: Sequence[str]) -> Sealed:
        """Encrypt a value for the machines with these public keys. Raises SealingFailed."""
        return (await self._ask(Encrypt(name, version, value, tuple(recipients)))).sealed[0]

    async def share(self, items: Sequence[Share]) -> tuple[Sealed, ...]:
        """Seal to further public keys what is sealed to this machine; one answer for each item. Raises
        SealingFailed."""
        return (await self._ask(ShareAll(str(self._directory / PRIVATE), tuple(items)))).sealed
