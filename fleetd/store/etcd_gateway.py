"""HTTP to etcd's v3 JSON gateway: endpoints and failover, timeouts, TLS, authentication, streams.

What the requests mean is etcd.py's, their shapes are etcd_wire.py's. This module alone in the store knows aiohttp.
"""

import asyncio
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import msgspec

from fleetd.http import aiohttp
from fleetd.store import etcd_wire as wire
from fleetd.store.etcd_wire import EndpointFailed, Refused, asks_for_token, parse_refusal
from fleetd.store.protocol import StoreError, Unavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

# a stream may be silent for ever, so the kernel finds out whether the other side is still there: after 30 to 60 s
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


def tls_context(ca_file: str = "", cert_file: str = "", key_file: str = "") -> ssl.SSLContext:
    """What TLS to etcd stands on: the CA's certificates (none given: the system's) and the client's own certificate.
    Raises StoreError where a file cannot be used."""
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        if cert_file:
            context.load_cert_chain(cert_file, key_file or None)
    except OSError as error:
        files = ", ".join(file for file in (ca_file, cert_file, key_file) if file)
        raise StoreError(f"cannot use the TLS files for etcd ({files}): {error}") from error
    return context


# How many times as long a request is waited for that must not be carried out twice: no other endpoint is asked, so that
# nothing is gained by giving it up early, and who gives it up has to read everything again.
PATIENCE_WITH_WRITES = 2


class _TimedOut(EndpointFailed):
    """The endpoint was silent for too long."""


class _Sending:
    """Whether a request began to leave this machine: from then on nobody knows whether it was carried out."""

    begun = False


class Stream:
    """One streamed answer, line by line. Closed from outside (its endpoint failed elsewhere), it ends as if cut."""

    def __init__(self, endpoint: str, token: str, response: aiohttp.ClientResponse) -> None:
        self.endpoint = endpoint
        self.token = token
        self._response = response
        self._lines: deque[bytes] = deque()
        self._partial: list[bytes] = []

    async def line(self) -> bytes:
        """The next line, however long. Raises EndpointFailed at the stream's end."""
        await self.wait()
        return self._lines.popleft()

    async def wait(self) -> None:
        """Return when a line is there. aiohttp's own iteration over lines fails on those above 512 KiB."""
        while not self._lines:
            with _failures_named():
                chunk = await self._response.content.readany()
            if not chunk:
                raise EndpointFailed("the stream ended")
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                self._lines.append(b"".join((*self._partial, end)))
                self._partial = []
            self._partial.append(rest)

    def close(self) -> None:
        self._response.close()


class Gateway:
    """The connections to one etcd cluster. To be made inside the event loop.

    One endpoint serves all requests and streams until it fails; then the next one does, in the order given, round and
    round: so each is tried again in time. Streams have a pool of their own, since they hold their connections.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        request_timeout_s: float,
        username: str = "",
        password: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if not endpoints:
            raise ValueError("no etcd endpoint is given")
        self._endpoints = tuple(endpoint.rstrip("/") for endpoint in endpoints)
        self._current = 0
        self._timeout_s = request_timeout_s
        self._username = username
        self._password = password
        self._token: str | None = None
        self._authenticating = asyncio.Lock()
        self._requests = _new_session(tls)
        self._streaming = _new_session(tls)
        self._streams: list[Stream] = []
        self._failing: set[str] = set()  # so that an outage is logged once
        self._closed = asyncio.Event()

    async def call(self, path: str, request: msgspec.Struct, parse: Callable[[bytes], T], *, repeat: bool) -> T:
        """One request. `repeat`: it does no harm to carry it out twice; one that does goes to another endpoint only
        where it never left for the first. Raises Refused, Unavailable."""
        body = msgspec.json.encode(request)
        timeout_s = self._timeout_s if repeat else PATIENCE_WITH_WRITES * self._timeout_s
        failures = []
        for endpoint in self._endpoints_in_turn():
            sending = _Sending()
            try:
                answer = parse(await self._post(endpoint, path, body, sending, timeout_s))
            except EndpointFailed as failure:
                failures.append(f"{endpoint}: {failure}")
                self._fail_over(endpoint, failure)
                if sending.begun and not repeat:
                    break
            else:
                if endpoint in self._failing:
                    self._failing.remove(endpoint)
                    log.info("etcd at %s answers again", endpoint)
                return answer
        raise Unavailable(f"etcd does not answer ({'; '.join(failures)})")

    async def open_stream(self, path: str, request: msgspec.Struct) -> Stream:
        """A stream from the endpoint of the day, once its first line is there. Raises EndpointFailed, Refused,
        Unavailable. The caller closes it with `close_stream`."""
        endpoint = self._endpoints[self._current]
        try:
            return await self._connect_stream(endpoint, path, msgspec.json.encode(request))
        except EndpointFailed as failure:
            self._fail_over(endpoint, failure)
            raise

    def close_stream(self, stream: Stream) -> None:
        stream.close()
        if stream in self._streams:
            self._streams.remove(stream)

    def forget_token(self, token: str) -> None:
        """etcd no longer takes this token: the next request gets another. Also after a request that timed out: an etcd
        that was restored from a snapshot does not answer to a token of later, but waits until it is as far."""
        if self._token == token:
            self._token = None

    async def closed_within(self, seconds: float) -> bool:
        """Wait so long, or until the gateway is closed; whether it is."""
        try:
            await asyncio.wait_for(self._closed.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        self._closed.set()
        for stream in self._streams:
            stream.close()
        await self._streaming.close()
        await self._requests.close()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise EndpointFailed("the store is closed")

    def _endpoints_in_turn(self) -> tuple[str, ...]:
        return self._endpoints[self._current :] + self._endpoints[: self._current]

    def _fail_over(self, endpoint: str, failure: EndpointFailed) -> None:
        """Go to the next endpoint, unless another request has done so; streams go too, for one that hangs on a frozen
        member would not notice by itself."""
        if endpoint not in self._failing and not self._closed.is_set():
            log.warning("etcd at %s fails: %s", endpoint, failure)
        self._failing.add(endpoint)
        if self._endpoints[self._current] != endpoint:
            return
        self._current = (self._current + 1) % len(self._endpoints)
        for stream in self._streams:
            if stream.endpoint == endpoint:
                stream.close()

    async def _connect_stream(self, endpoint: str, path: str, body: bytes) -> Stream:
        token = await self._token_for(endpoint)
        self._check_open()
        try:
            return await self._open_stream_with(endpoint, path, body, token)
        except _TimedOut:
            self.forget_token(token)
            raise

    async def _open_stream_with(self, endpoint: str, path: str, body: bytes, token: str) -> Stream:
        with _failures_named(self._timeout_s), ExitStack() as undo:
            async with asyncio.timeout(self._timeout_s):
                response = await self._streaming.post(endpoint + path, data=body, headers=_headers(token))
                stream = Stream(endpoint, token, response)
                self._streams.append(stream)
                undo.callback(self.close_stream, stream)
                if response.status != 200:
                    raise parse_refusal(response.status, await response.read())
                _keep_alive(response)
                await stream.wait()
            undo.pop_all()
            return stream

    async def _post(self, endpoint: str, path: str, body: bytes, sending: _Sending, timeout_s: float) -> bytes:
        token = await self._token_for(endpoint)
        try:
            return await self._exchange(endpoint + path, body, token, sending, timeout_s)
        except _TimedOut:
            self.forget_token(token)
            raise
        except Refused as refusal:
            if not self._username or not asks_for_token(str(refusal)):
                raise
        sending.begun = False  # refused: it was certainly not carried out
        self.forget_token(token)
        return await self._exchange(endpoint + path, body, await self._token_for(endpoint), sending, timeout_s)

    async def _exchange(self, url: str, body: bytes, token: str, sending: _Sending, timeout_s: float) -> bytes:
        """Post, and read the whole answer. The timeout is for each stretch without a byte, so size is no matter."""
        self._check_open()
        loop = asyncio.get_running_loop()
        chunks = []
        with _failures_named(timeout_s):
            async with (
                asyncio.timeout(timeout_s) as patience,
                self._requests.post(url, data=body, headers=_headers(token), trace_request_ctx=sending) as response,
            ):
                async for chunk in response.content.iter_any():
                    chunks.append(chunk)
                    patience.reschedule(loop.time() + timeout_s)
        if response.status != 200:
            raise parse_refusal(response.status, b"".join(chunks))
        return b"".join(chunks)

    async def _token_for(self, endpoint: str) -> str:
        """The token to send, fetched where there is none; '' without a user, or where etcd asks for none."""
        if not self._username:
            return ""
        with _failures_named(self._timeout_s):
            async with asyncio.timeout(self._timeout_s), self._authenticating:
                if self._token is None:
                    self._token = await self._authenticate(endpoint)
                return self._token

    async def _authenticate(self, endpoint: str) -> str:
        request = wire.AuthenticateRequest(self._username, self._password)
        try:
            answer = await self._exchange(
                endpoint + "/v3/auth/authenticate", msgspec.json.encode(request), "", _Sending(), self._timeout_s
            )
        except Refused as refusal:
            if "authentication is not enabled" in str(refusal):
                return ""
            raise Unavailable(
                f"etcd at {endpoint} does not let user {self._username} in: {refusal}; "
                "check etcd_username and etcd_password"
            ) from refusal
        return wire.parse_authenticate(answer).token


def _new_session(tls: ssl.SSLContext | None) -> aiohttp.ClientSession:
    """A pool without bound (a bound would make requests wait on each other's timeouts) or memory of its own. Without
    `tls`, no server is trusted."""
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_note_sending)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls or True),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[trace],
        trust_env=False,
    )


async def _note_sending(
    _session: aiohttp.ClientSession, context: object, _params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    sending = getattr(context, "trace_request_ctx", None)
    if sending is not None:
        sending.begun = True


def _headers(token: str) -> dict[str, str]:
    content = {"Content-Type": "application/json"}
    return {**content, "Authorization": token} if token else content


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    transport = response.connection.transport if response.connection else None
    if transport is None:
        return  # cut already: reading will say so
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


@contextmanager
def _failures_named(timeout_s: float = 0) -> Iterator[None]:
    """Turn the failures of a connection into EndpointFailed."""
    try:
        yield
    except TimeoutError as error:
        raise _TimedOut(f"no answer for {timeout_s:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise EndpointFailed(str(error) or type(error).__name__) from error
