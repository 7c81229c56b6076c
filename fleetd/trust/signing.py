"""Making and signing certificates, each in a process that ends with it.

The library for it takes ten MiB, which fleetd would keep for good. Keys pass through pipes, never through arguments or
the environment.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from fleetd.model.certificate import (
    AUTHORITY_LIFE_S,
    MACHINE_LIFE_S,
    Authority,
    CertificateIdentity,
    parse_peer_certificate,
    uris,
)

T = TypeVar("T")

TIMEOUT_S = 60.0
AT_ONCE = 2  # processes: machines that join and users who log in must not keep a machine busy


class SigningFailed(Exception):
    """The process did not answer. The message says why."""


class Refused(ValueError):
    """What was given cannot be used. The message says why."""


class _Answer(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""


async def run_process(call: bytes) -> bytes:
    """Answer a call (fleetd/trust/__main__.py) in a new process. Raises SigningFailed."""
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "fleetd.trust",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise SigningFailed(f"cannot start {sys.executable}: {error.strerror}") from error
    try:
        async with asyncio.timeout(TIMEOUT_S):
            said, complaint = await process.communicate(call)
    except TimeoutError:
        raise SigningFailed(f"the process that signs has not ended within {TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        cause = complaint.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise SigningFailed(f"the process that signs ended with {process.returncode}: {''.join(cause)}")
    return said


class Signer:
    """Makes and signs. Every method raises Refused, and SigningFailed. `run` answers a call."""

    def __init__(self, run: Callable[[bytes], Awaitable[bytes]] = run_process) -> None:
        self._run = run
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def make_authority(
        self, number: int, now_s: float, life_s: float = AUTHORITY_LIFE_S, former: Authority | None = None
    ) -> tuple[Authority, str]:
        """A new authority of this number, and its certificate as the former one signs it ('' without one)."""
        return await self.call(
            "make-authority", tuple[Authority, str], number=number, now_s=now_s, life_s=life_s, former=former
        )

    async def make_request(self, key: str = "") -> tuple[str, str]:
        """A private key (the one given, or a new one), and a request for a certificate of it."""
        return await self.call("make-request", tuple[str, str], key=key)

    async def sign(
        self,
        authority: Authority,
        request: str,
        identity: CertificateIdentity,
        *,
        names: Iterable[str] = (),
        server: bool = False,
        now_s: float,
        life_s: float = MACHINE_LIFE_S,
    ) -> str:
        """The certificate that names this identity, of the public key in the request. Its times are `now_s` and
        `life_s`, not those in the identity. `names` are host names and addresses at which it is served, if `server`."""
        return await self.call(
            "sign",
            str,
            authority=authority,
            request=request,
            uris=uris(identity),
            names=tuple(names),
            server=server,
            now_s=now_s,
            life_s=life_s,
        )

    async def issue(
        self,
        authority: Authority,
        identity: CertificateIdentity,
        *,
        key: str = "",
        names: Iterable[str] = (),
        server: bool = False,
        now_s: float,
        life_s: float = MACHINE_LIFE_S,
    ) -> tuple[str, str]:
        """A private key (the one given, or a new one) and its certificate, as `sign` makes it."""
        return await self.call(
            "issue",
            tuple[str, str],
            authority=authority,
            key=key,
            uris=uris(identity),
            names=tuple(names),
            server=server,
            now_s=now_s,
            life_s=life_s,
        )

    async def inspect(
        self, certificate: str, authorities: Sequence[str], request: str = ""
    ) -> tuple[CertificateIdentity, str]:
        """Whom a certificate names, expired or not, and which of the authorities (their certificates) has signed it.
        Refused if none has, and if a request is given that is not made with its key."""
        said, signer = await self.call(
            "inspect",
            tuple[dict[str, Any], int],
            certificate=certificate,
            authorities=authorities,
            request=request,
        )
        try:
            return parse_peer_certificate(said), authorities[signer]
        except ValueError as error:
            raise Refused(str(error)) from error

    async def call(self, verb: str, result: type[T], **arguments: object) -> T:
        """The result of one call, of this type."""
        call = msgspec.json.encode({"verb": verb, "arguments": arguments})
        async with self._turns:
            said = await self._run(call)
        try:
            answer = msgspec.json.decode(said, type=_Answer)
            if answer.error:
                raise Refused(answer.error)
            return msgspec.json.decode(answer.result, type=result)
        except msgspec.DecodeError as error:
            raise SigningFailed(f"the process that signs has answered something else: {error}") from error
