"""Has secrets sealed by a process of its own (sealing.py), so that no daemon keeps `cryptography` in memory."""

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from fleetd.model.decoding import UNREADABLE
from fleetd.trust.sealing_wire import Answer, Encrypt, MakeKey, Request, Sealed, Share, ShareAll

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "fleetd.trust.sealing")
TIMEOUT_S = 30.0
PUBLIC, PRIVATE, BOUND = "seal.pub", "seal.key", "seal.cred"  # files in the trust directory; BOUND to the TPM
TPMS = Path("/sys/class/tpmrm")

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
    """What one machine can seal and open. `directory` is that of its seal key; `ask` has a process answer; `tpms` is
    the folder in which the kernel lists the machine's TPMs (TPMS), None if none is used."""

    def __init__(self, directory: Path, ask: Ask = ask_process, tpms: Path | None = None) -> None:
        self._directory = directory
        self._ask = ask
        self._tpms = tpms
        self._was_opened = False  # the seal key, by a process since this one began

    def find_public(self) -> str:
        """The public half of this machine's seal key, '' if it was not made yet."""
        try:
            has_private = any((self._directory / name).exists() for name in (PRIVATE, BOUND))
            return (self._directory / PUBLIC).read_text().strip() if has_private else ""
        except (OSError, ValueError):
            return ""

    def may_be_bound(self) -> bool:
        """True if the seal key is bound to a TPM, which may not open it any more, or could be bound to one."""
        try:
            return (self._directory / BOUND).exists() or (self._tpms is not None and bool(os.listdir(self._tpms)))
        except OSError:
            return False

    def awaits_tpm(self) -> bool:
        """True if the seal key is bound to a TPM, and whether that opens it is not known yet."""
        return not self._was_opened and (self._directory / BOUND).exists()

    async def make_key(self) -> str:
        """Make the seal key, unless there is one that can be opened, and bind it to the TPM if there is one. Returns
        its public half. Raises SealingFailed."""
        (made,) = (await self._ask(MakeKey(str(self._directory / PRIVATE)))).sealed
        self._was_opened = True
        if made.warning:
            log.warning("%s", made.warning)
        elif made.bound:
            log.info("the key for secrets is bound to the TPM of this machine")
        return made.public

    async def encrypt(self, name: str, version: int, value: bytes, recipients: Sequence[str]) -> Sealed:
        """Encrypt a value for the machines with these public keys. Raises SealingFailed."""
        return (await self._ask(Encrypt(name, version, value, tuple(recipients)))).sealed[0]

    async def share(self, items: Sequence[Share]) -> tuple[Sealed, ...]:
        """Seal to further public keys what is sealed to this machine; one answer for each item. Raises
        SealingFailed."""
        return (await self._ask(ShareAll(str(self._directory / PRIVATE), tuple(items)))).sealed
