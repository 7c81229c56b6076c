"""Connections over TLS from their acceptance to the end of the handshake, when the client's certificate is known.

A client that nobody knows yet costs little: handshakes are bounded in number and time, so that neither silent clients
nor a flood of them keeps others out, or the rest of fleetd from its work. Others wait in the socket's queue.
"""

import asyncio
import logging
import socket
import ssl
from asyncio import sslproto
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from fleetd.model.certificate import CertificateIdentity

HANDSHAKE_S = 10.0  # for a handshake, from the connection on
MAX_HANDSHAKES = 256  # at once
YIELD_S = 1.0  # after which the oldest gives way to others that wait; with most of them, at once
READ_BYTES = 32 * 1024  # at once, of one connection: two records of TLS
_REFUSAL_S = 1.0  # for a client without TLS to read why it is refused
_SHUTDOWN_S = 1.0  # for a client to say that it has seen the end
_RETRY_S = 1.0  # after the system had no descriptors left
_LOG_S = 60.0  # between two log entries about the same
_HANDSHAKE = b"\x16"  # the first byte of TLS
_INTERNAL_ERROR = b"\x15\x03\x03\x00\x02\x02\x50"  # a fatal alert of TLS (RFC 8446 6.2): not the client's fault

log = logging.getLogger(__name__)


class ServerTrust(Protocol):
    """What a listener needs of the certificates of this machine."""

    def server_context(self) -> ssl.SSLContext | None:
        """The context of the next connection, with contexts.NO_CHECK_TIME; None while there is no certificate."""

    def is_revoked(self, identity: CertificateIdentity) -> bool:
        """True if a certificate does not count any more."""

    def why_unsure(self) -> str:
        """Why it is not known yet which certificates were revoked; '' if it is."""


class TlsListener:
    """Accepts connections on a listening socket, and hands those with TLS to the protocols that `make_protocol` makes.

    `trust()` is asked for each connection. `refusal` is what a client without TLS gets, as bytes. A handshake may take
    `handshake_s`; if there are too many, the oldest gives way after `yield_s`, or at once to others than its address.
    """

    def __init__(
        self,
        listening: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        trust: Callable[[], ServerTrust],
        refusal: bytes,
        handshake_s: float = HANDSHAKE_S,
        yield_s: float = YIELD_S,
    ) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._make_protocol = make_protocol
        self._trust = trust
        self._refusal = refusal
        self._handshake_s = handshake_s
        self._yield_s = yield_s
        self._handshakes: dict[asyncio.Task[None], tuple[float, str]] = {}  # when each began, and its address
        self._logged: dict[str, float] = {}  # what was logged last when
        self._accepting = asyncio.create_task(self._accept())

    async def close(self) -> None:
        """Stop to accept, and end handshakes. Connections stay."""
        tasks = [self._accepting, *self._handshakes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listening.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listening)
            except OSError as error:
                self._note("cannot accept a connection", error.strerror or str(error))
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                await self._wait_for_room()
            except asyncio.CancelledError:
                connection.close()
                raise
            host = address[0].removeprefix("::ffff:")
            task = loop.create_task(self._shake_hands(connection, host))
            self._handshakes[task] = loop.time(), host
            task.add_done_callback(self._handshakes.pop)

    async def _wait_for_room(self) -> None:
        """Wait until the handshake of a client that waits may begin. At the limit the oldest gives way: at once that of
        an address with more than half of all, else any after `yield_s`."""
        while len(self._handshakes) >= MAX_HANDSHAKES:
            first, count = Counter(address for _, address in self._handshakes.values()).most_common(1)[0]
            has_most = count > MAX_HANDSHAKES // 2
            oldest, began_s = next(
                (task, began_s)
                for task, (began_s, address) in self._handshakes.items()
                if address == first or not has_most
            )
            left_s = 0.0 if has_most else began_s + self._yield_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                oldest.cancel()
            await asyncio.wait(self._handshakes, timeout=max(left_s, 0.0), return_when=asyncio.FIRST_COMPLETED)

    async def _shake_hands(self, connection: socket.socket, host: str) -> None:
        try:
            async with asyncio.timeout(self._handshake_s):
                first = await _peek(connection)
                if first == _HANDSHAKE:
                    await self._wrap(connection)
                elif first:
                    await _refuse(connection, self._refusal)
        except TimeoutError:
            pass  # a client that is slow, or nothing but a probe of the port
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message
            self._note("refused a client's certificate", f"{why} (client {host})", why)
        except ssl.SSLError as error:
            said = (error.reason or str(error)).replace("_", " ").lower()
            why = f"the client says: {said.partition(' alert ')[2]}" if " alert " in said else said
            self._note("a TLS handshake failed", f"{why} (client {host})", why)
        except OSError:
            pass  # the client has gone
        finally:
            connection.close()

    async def _wrap(self, connection: socket.socket) -> None:
        context = self._trust().server_context()
        if context is None:
            self._note("refused a client", "this machine has no certificate yet")
            await _refuse(connection, _INTERNAL_ERROR)
            return
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        protocol = _SmallTls(
            loop,
            self._make_protocol(),
            _AlertingContext(context, connection),  # type: ignore[arg-type]  # all of it that asyncio uses
            done,
            server_side=True,
            ssl_handshake_timeout=self._handshake_s,  # type: ignore[arg-type]  # a float is as good
            ssl_shutdown_timeout=_SHUTDOWN_S,
        )
        # Its transport closes the duplicate; ours stays open for an alert.
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection.dup())
        try:
            await done
        except BaseException:
            transport.close()
            raise

    def _note(self, what: str, why: str, kind: str | None = None) -> None:
        """Log what happened, but the same not more than once a minute."""
        now_s = asyncio.get_running_loop().time()
        key = f"{what}: {kind or why}"
        if now_s - self._logged.get(key, -_LOG_S) >= _LOG_S:
            self._logged[key] = now_s
            log.warning("%s: %s", what, why)


class _SmallTls(sslproto.SSLProtocol):
    """asyncio's TLS over a transport, with less memory for each connection: its 256 KiB for what arrives are taken
    at once, and would be hundreds of MiB for the connections of a thousand workers."""

    max_size = READ_BYTES


class _AlertingContext:
    """An SSL context whose failed handshakes tell the client why: asyncio closes the socket before OpenSSL's alert is
    sent."""

    def __init__(self, context: ssl.SSLContext, connection: socket.socket) -> None:
        self._context = context
        self._connection = connection

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **options: Any) -> "_AlertingObject":
        return _AlertingObject(self._context.wrap_bio(incoming, outgoing, **options), outgoing, self._connection)


class _AlertingObject:
    """The TLS of one connection; see _AlertingContext."""

    def __init__(self, wrapped: ssl.SSLObject, outgoing: ssl.MemoryBIO, connection: socket.socket) -> None:
        self._wrapped = wrapped
        self._outgoing = outgoing
        self._connection = connection

    def do_handshake(self) -> None:
        try:
            self._wrapped.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            with suppress(OSError):
                self._connection.send(self._outgoing.read())
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


async def _peek(connection: socket.socket) -> bytes:
    """The first byte that a client sends, which stays to be read; b'' if it ends the connection."""
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    while True:
        with suppress(BlockingIOError):
            return connection.recv(1, socket.MSG_PEEK)
        readable = loop.create_future()
        loop.add_reader(connection, _resolve, readable)
        try:
            await readable
        finally:
            loop.remove_reader(connection)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _refuse(connection: socket.socket, refusal: bytes) -> None:
    """Tell a client why, and let it read that: what it sends is read until it ends."""
    loop = asyncio.get_running_loop()
    with suppress(TimeoutError):
        async with asyncio.timeout(_REFUSAL_S):
            await loop.sock_sendall(connection, refusal)
            connection.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(connection, 65536):
                pass
