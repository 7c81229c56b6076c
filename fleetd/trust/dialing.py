"""Connects to another server of the cluster, with the certificate of this machine, and looks whose that one has."""

import asyncio
import re
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from fleetd.model.answer_stream import BEGIN_S, MAX_WORDS_BYTES, SILENCE_S
from fleetd.model.certificate import MACHINE, SERVER, CertificateIdentity, parse_peer_certificate

_PLACE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})", re.ASCII)


class CannotDial(Exception):
    """The server cannot be reached, or is another one. The message names the address and the cause."""


class DialTrust(Protocol):
    """What is needed of the certificates of this machine."""

    @property
    def expires_at_s(self) -> float:
        """The Unix time at which this machine's certificate expires; 0 without one."""

    def client_context(self) -> ssl.SSLContext:
        """The TLS of a client of servers."""


async def dial(
    trust: DialTrust,
    is_revoked: Callable[[CertificateIdentity], bool],
    address: str,
    machine: str,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to this server at HOST:PORT. Raises CannotDial."""
    found = _PLACE.fullmatch(address)
    if found is None or not 0 < int(found[3]) <= 65535:
        raise CannotDial(f"{address!r} is no address of a server")
    if not trust.expires_at_s:
        raise CannotDial("this machine has no certificate yet")
    host, port = found[1] or found[2], int(found[3])
    try:
        async with asyncio.timeout(BEGIN_S):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=trust.client_context(), server_hostname=host, limit=MAX_WORDS_BYTES
            )
    except TimeoutError:
        raise CannotDial(f"{address} does not answer within {BEGIN_S:g} s: does a firewall drop packets?") from None
    except ssl.SSLError as error:
        raise CannotDial(f"no TLS with {address}: {error.reason or error}") from error
    except OSError as error:
        raise CannotDial(f"cannot connect to {address}: {(error.strerror or str(error)).lower()}") from error
    try:
        identity = parse_peer_certificate(writer.get_extra_info("peercert"))
        if (identity.kind, identity.role, identity.name) != (MACHINE, SERVER, machine):
            raise CannotDial(f"{address} has the certificate of {identity.subject}, not that of machine {machine}")
        if is_revoked(identity):
            raise CannotDial(f"the certificate of {identity.subject} at {address} was revoked")
    except ValueError as error:
        writer.transport.abort()
        raise CannotDial(f"the certificate of {address} cannot be used: {error}") from error
    except CannotDial:
        writer.transport.abort()
        raise
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE_S * 1000))
    return reader, writer
