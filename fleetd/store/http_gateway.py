"""HTTP client of a store: failover between its endpoints, timeouts, TLS, streams.

What is sent and how an answer is read is a Format's: etcd_gateway.py has etcd's, worker.py that of fleet's servers. The
only module of the store that uses aiohttp.
"""

import asyncio
import logging
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Protocol, TypeVar

import msgspec

from fleetd.aiohttp_import import aiohttp
from fleetd.store.failures import EndpointFailed
from fleetd.store.protocol import Unavailable
from fleetd.url import without_user

T = TypeVar("T")

log = logging.getLogger(__name__)

# Watches may be silent for ever, so the kernel checks whether the peer is still there: it takes 30 to 60 s.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))

# The timeout of a request that must not be executed twice, in timeouts of other requests. No other endpoint is tried,
# so giving up early gains nothing, and the caller has to read everything again after it.
WRITE_TIMEOUTS = 2

# Limits on an answer: an endless one, from whatever listens on etcd's port, must not fill the memory.
ANSWER_BYTES = 2 * 1024 * 1024
LONGEST_ANSWER_S = 60.0  # from the first byte to the last, however slowly they come
_STEPS = 4  # of a timeout, see _IdleTimeout


class AnswerTooLarge(EndpointFailed):
    """The answer is larger than the caller accepts."""


class TimedOut(EndpointFailed):
    """The endpoint did not answer in time."""


class Sending:
    """`begun` is true once the request may have been sent. If it fails after that, etcd may have executed it."""

    begun = False


class Splitter(Protocol):
    """Splits a streamed answer into its parts."""

    def split(self, chunk: bytes) -> Sequence[bytes]:
        """The parts that end in this chunk, the next bytes of the stream. Raises EndpointFailed if a part is too
        large."""


class Format(Protocol):
    """How one kind of store is spoken to."""

    name: str  # of an endpoint, in messages: "etcd"
    remedy: str  # where its address is to be given: "name etcd itself in etcd_servers"
    content_type: str
    idle_s: float  # for so long a connection without requests is kept

    def encode(self, request: msgspec.Struct) -> bytes:
        """The body of a request."""

    def parse_refusal(self, status: int, body: bytes) -> Exception:
        """The error that an answer with another status than 200 means; EndpointFailed if another endpoint is to be
        tried."""

    def new_splitter(self) -> Splitter:
        """The splitter of one stream."""


class Stream:
    """One streamed answer, part by part. Closing it, because its endpoint failed another request, ends it."""

    def __init__(self, endpoint: str, token: str, response: aiohttp.ClientResponse, splitter: Splitter) -> None:
        self.endpoint = endpoint
        self.token = token
        self._response = response
        self._splitter = splitter
        self._parts: deque[bytes] = deque()

    async def part(self) -> bytes:
        """The next part, however long. Raises EndpointFailed at the stream's end."""
        await self.wait()
        return self._parts.popleft()

    async def wait(self) -> None:
        """Return when a part is available."""
        while not self._parts:
            with failures_named():
                chunk = await self._response.content.readany()
            if not chunk:
                raise EndpointFailed("the stream ended")
            self._parts.extend(self._splitter.split(chunk))

    def close(self) -> None:
        self._response.close()


class _IdleTimeout:
    """A timeout for each stretch without a byte (`restart`), with a limit for the whole answer.

    It is counted in steps. However long the event loop is blocked, that counts as one step: the answer may have arrived
    meanwhile without having been read.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._step_s = seconds / _STEPS
        self._left = _STEPS
        self._ends_s = self._loop.time() + LONGEST_ANSWER_S
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> "_IdleTimeout":
        await self._timeout.__aenter__()
        self._timer = self._loop.call_later(self._step_s, self._count)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(kind, exception, traceback)

    def restart(self) -> None:
        """Some bytes have arrived."""
        self._left = _STEPS

    def _count(self) -> None:
        self._left -= 1
        if self._left <= 0 or self._loop.time() > self._ends_s:
            self._timeout.reschedule(self._loop.time())
        else:
            self._timer = self._loop.call_later(self._step_s, self._count)


class Gateway:
    """The connections to one store. Needs a running event loop. `context` returns the TLS context of a connection
    to an https: endpoint; without it, no certificate is trusted.

    One endpoint serves all requests and streams until it fails, then the next one in the order given, in turn. Streams
    have their own pool, because they occupy their connections.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        store_format: Format,
        *,
        request_timeout_s: float,
        context: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        if not endpoints:
            raise ValueError(f"{store_format.name} needs at least one endpoint")
        self._endpoints = tuple(endpoint.rstrip("/") for endpoint in endpoints)
        self._current = 0
        self._timeout_s = request_timeout_s
        self._format = store_format
        self._context = context
        self._requests = _new_session(store_format.idle_s)
        self._streaming = _new_session(store_format.idle_s)
        self._streams: list[Stream] = []
        self._failing: dict[str, bool] = {}  # whether a lasting failure was logged: an outage is logged once
        self._closed = asyncio.Event()

    async def call(
        self,
        path: str,
        request: msgspec.Struct,
        parse: Callable[[bytes], T],
        *,
        repeat: bool = True,
        most_bytes: int = ANSWER_BYTES,
    ) -> T:
        """Send one request. `repeat`: it is safe to execute twice; else another endpoint is tried only if the request
        was never sent to the first. Raises Unavailable: Refused, or AnswerTooLarge if the answer is larger than a
        `most_bytes` above ANSWER_BYTES, or if no endpoint answers."""
        body = self._format.encode(request)
        timeout_s = self._timeout_s if repeat else WRITE_TIMEOUTS * self._timeout_s
        failures = []
        for endpoint in self._endpoints_in_turn():
            sending = Sending()
            try:
                answer = parse(await self._post(endpoint, path, body, sending, timeout_s, most_bytes))
            except EndpointFailed as failure:
                if isinstance(failure, AnswerTooLarge) and most_bytes > ANSWER_BYTES:
                    raise  # the caller asks for less
                failures.append(f"{without_user(endpoint)}: {failure}")
                self.fail_over(endpoint, failure)
                if sending.begun and not repeat and not failure.was_refused:
                    break
            else:
                if endpoint in self._failing:
                    del self._failing[endpoint]
                    log.info("%s at %s answers again", self._format.name, without_user(endpoint))
                return answer
        raise Unavailable(f"{self._format.name} does not answer ({'; '.join(failures)})")

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The addresses that were given, without a slash at the end."""
        return self._endpoints

    def use(self, endpoints: Sequence[str]) -> None:
        """Use these endpoints from now on. The one in use stays, if it is among them."""
        current = self._endpoints[self._current]
        self._endpoints = tuple(endpoints)
        self._current = self._endpoints.index(current) if current in self._endpoints else 0

    async def reconnect(self) -> None:
        """End all connections, and the streams and requests on them: who answers them may not count any more."""
        if self._closed.is_set():
            return
        former = self._requests, self._streaming
        self._requests, self._streaming = (_new_session(self._format.idle_s) for _ in former)
        for stream in tuple(self._streams):
            stream.close()
        await asyncio.shield(asyncio.gather(*(session.close() for session in former)))

    async def ask(self, endpoint: str, path: str, request: msgspec.Struct, parse: Callable[[bytes], T]) -> T:
        """Send one request to this address alone, one of `endpoints` or another of the same store. Raises Unavailable
        if it does not answer, which does not count as a failure of the store."""
        body = self._format.encode(request)
        return parse(await self._post(endpoint.rstrip("/"), path, body, Sending(), self._timeout_s, ANSWER_BYTES))

    async def open_stream(self, path: str, request: msgspec.Struct) -> Stream:
        """Open a stream at the current endpoint and wait for its first part. The caller closes it with `close_stream`.
        Raises Unavailable."""
        endpoint = self._endpoints[self._current]
        try:
            return await self._open_stream_at(endpoint, path, self._format.encode(request))
        except EndpointFailed as failure:
            self.fail_over(endpoint, failure)
            raise

    async def _open_stream_at(self, endpoint: str, path: str, body: bytes) -> Stream:
        self._check_open()
        return await self._connect_stream(endpoint, path, body, "")

    def close_stream(self, stream: Stream) -> None:
        stream.close()
        if stream in self._streams:
            self._streams.remove(stream)

    async def closed_within(self, seconds: float) -> bool:
        """Wait for so long, or until the gateway is closed. True if it is."""
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

    def fail_over(self, endpoint: str, failure: EndpointFailed) -> None:
        """Use the next endpoint, unless another request has switched already. Close the endpoint's streams too: a
        stream to a frozen member would not fail by itself."""
        is_news = endpoint not in self._failing or failure.is_lasting > self._failing[endpoint]
        if is_news and not self._closed.is_set():
            log.warning("%s at %s fails: %s", self._format.name, without_user(endpoint), failure)
        self._failing[endpoint] = failure.is_lasting or self._failing.get(endpoint, False)
        if self._endpoints[self._current] != endpoint:
            return
        self._current = (self._current + 1) % len(self._endpoints)
        for stream in self._streams:
            if stream.endpoint == endpoint:
                stream.close()

    async def _connect_stream(self, endpoint: str, path: str, body: bytes, token: str) -> Stream:
        with failures_named(self._timeout_s), ExitStack() as undo:
            async with asyncio.timeout(self._timeout_s):
                response = await self._streaming.post(
                    endpoint + path, data=body, headers=self._headers(token), ssl=self._tls, allow_redirects=False
                )
                stream = Stream(endpoint, token, response, self._format.new_splitter())
                self._streams.append(stream)
                undo.callback(self.close_stream, stream)
                if response.status != 200:
                    raise self._parse_refusal(response, await response.content.read(ANSWER_BYTES))
                _keep_alive(response)
                await stream.wait()
            undo.pop_all()
            return stream

    async def _post(
        self, endpoint: str, path: str, body: bytes, sending: Sending, timeout_s: float, most_bytes: int
    ) -> bytes:
        return await self._exchange(endpoint + path, body, "", sending, timeout_s, most_bytes)

    async def _exchange(
        self, url: str, body: bytes, token: str, sending: Sending, timeout_s: float, most_bytes: int = ANSWER_BYTES
    ) -> bytes:
        """Post, and return the whole answer. The timeout is for each stretch without a byte. Raises AnswerTooLarge."""
        self._check_open()
        chunks = []
        size = 0
        with failures_named(timeout_s):
            async with (
                _IdleTimeout(timeout_s) as timeout,
                self._requests.post(
                    url,
                    data=body,
                    headers=self._headers(token),
                    ssl=self._tls,
                    trace_request_ctx=sending,
                    allow_redirects=False,
                ) as response,
            ):
                async for chunk in response.content.iter_any():
                    chunks.append(chunk)
                    timeout.restart()
                    size += len(chunk)
                    if size > most_bytes:
                        response.close()
                        raise AnswerTooLarge(f"{self._format.name}'s answer is larger than {most_bytes} bytes")
        if response.status != 200:
            raise self._parse_refusal(response, b"".join(chunks))
        return b"".join(chunks)

    @property
    def _tls(self) -> ssl.SSLContext | bool:
        return self._context() if self._context else True

    def _headers(self, token: str) -> Mapping[str, str]:
        content = {"Content-Type": self._format.content_type}
        return {**content, "Authorization": token} if token else content

    def _parse_refusal(self, response: aiohttp.ClientResponse, body: bytes) -> Exception:
        if 300 <= response.status < 400:
            target = without_user(response.headers.get("Location", "nowhere"))[:200]
            return EndpointFailed(f"it redirects to {target!r}, which is not followed: {self._format.remedy}")
        return self._format.parse_refusal(response.status, body)


def _new_session(idle_s: float) -> aiohttp.ClientSession:
    """A client with unlimited connections (with a limit, requests would wait for each other's timeouts) and no
    cookies."""
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_note_sending)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=idle_s),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[trace],
        trust_env=False,
        auto_decompress=False,  # a small compressed answer may be huge
        headers={"Accept-Encoding": "identity"},
    )


async def _note_sending(
    _session: aiohttp.ClientSession, context: object, _params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    sending = getattr(context, "trace_request_ctx", None)
    if sending is not None:
        sending.begun = True


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    transport = response.connection.transport if response.connection else None
    if transport is None:
        return  # disconnected already: the next read fails
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


@contextmanager
def failures_named(timeout_s: float = 0) -> Iterator[None]:
    """Raise EndpointFailed for failures of the connection."""
    try:
        yield
    except TimeoutError as error:
        raise TimedOut(f"no answer for {timeout_s:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise EndpointFailed(_explain(error) or without_user(str(error)) or type(error).__name__) from error


_ALERTS = {  # what the other side says of this side's certificate, by OpenSSL's names
    "ALERT_UNKNOWN_CA": "it does not know the authority that signed this machine's certificate",
    "ALERT_CERTIFICATE_EXPIRED": "it says that this machine's certificate has expired",
    "ALERT_CERTIFICATE_REVOKED": "it says that this machine's certificate was revoked",
    "ALERT_CERTIFICATE_REQUIRED": "it requires a client certificate",
}


def _explain(error: Exception) -> str:
    """Why there is no connection, or what is wrong with a certificate; '' for other failures."""
    cause: object = error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {cause.verify_message}"
    reason = str(getattr(cause, "reason", "") or cause)
    words = next((words for alert, words in _ALERTS.items() if alert in reason), "")
    if not words and isinstance(error, aiohttp.ClientConnectorError) and (number := error.os_error.errno):
        return f"cannot connect: {os.strerror(number) if number > 0 else error.os_error.strerror}"
    return words
