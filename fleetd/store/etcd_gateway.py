"""HTTP client of etcd's v3 JSON gateway: failover between endpoints, timeouts, TLS, authentication, streams.

The only module of the store that uses aiohttp.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TypeVar

import msgspec

from fleetd.aiohttp_import import aiohttp
from fleetd.store import etcd_wire as wire
from fleetd.store.etcd_tls import EtcdTls
from fleetd.store.etcd_wire import EndpointFailed, Refused, parse_refusal
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
LINE_BYTES = 32 * 1024 * 1024  # with fragments on, etcd splits the events of several keys into parts of about two MiB
LONGEST_ANSWER_S = 60.0  # from the first byte to the last, however slowly they come
_STEPS = 4  # of a timeout, see _IdleTimeout


class AnswerTooLarge(EndpointFailed):
    """The answer is larger than the caller accepts."""


class _TimedOut(EndpointFailed):
    """The endpoint did not answer in time."""


class _Sending:
    """`begun` is true once the request may have been sent. If it fails after that, etcd may have executed it."""

    begun = False


class Stream:
    """One streamed answer, line by line. Closing it, because its endpoint failed another request, ends it."""

    def __init__(self, endpoint: str, token: str, response: aiohttp.ClientResponse) -> None:
        self.endpoint = endpoint
        self.token = token
        self._response = response
        self._lines: deque[bytes] = deque()
        self._partial: list[bytes] = []  # the beginning of the next line
        self._partial_bytes = 0

    async def line(self) -> bytes:
        """The next line, however long. Raises EndpointFailed at the stream's end."""
        await self.wait()
        return self._lines.popleft()

    async def wait(self) -> None:
        """Return when a line is available. aiohttp's own iteration fails on lines above 512 KiB."""
        while not self._lines:
            with _failures_named():
                chunk = await self._response.content.readany()
            if not chunk:
                raise EndpointFailed("the stream ended")
            self._partial_bytes += len(chunk)
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                self._lines.append(b"".join((*self._partial, end)))
                self._partial, self._partial_bytes = [], len(rest)
            self._partial.append(rest)
            if self._partial_bytes > LINE_BYTES:
                raise EndpointFailed(f"a line of the stream is longer than {LINE_BYTES} bytes: this is not etcd")

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
    """The connections to one etcd cluster. Needs a running event loop.

    One endpoint serves all requests and streams until it fails, then the next one in the order given, in turn. Streams
    have their own pool, because they occupy their connections.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        request_timeout_s: float,
        username: str = "",
        password: str = "",
        tls: EtcdTls | None = None,
    ) -> None:
        if not endpoints:
            raise ValueError("etcd needs at least one endpoint")
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
        body = msgspec.json.encode(request)
        timeout_s = self._timeout_s if repeat else WRITE_TIMEOUTS * self._timeout_s
        failures = []
        for endpoint in self._endpoints_in_turn():
            sending = _Sending()
            try:
                answer = parse(await self._post(endpoint, path, body, sending, timeout_s, most_bytes))
            except EndpointFailed as failure:
                if isinstance(failure, AnswerTooLarge) and most_bytes > ANSWER_BYTES:
                    raise  # the caller asks for less
                failures.append(f"{without_user(endpoint)}: {failure}")
                self._fail_over(endpoint, failure)
                if sending.begun and not repeat:
                    break
            else:
                if endpoint in self._failing:
                    self._failing.remove(endpoint)
                    log.info("etcd at %s answers again", without_user(endpoint))
                return answer
        raise Unavailable(f"etcd does not answer ({'; '.join(failures)})")

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The addresses that were given, without a slash at the end."""
        return self._endpoints

    async def ask(self, endpoint: str, path: str, request: msgspec.Struct, parse: Callable[[bytes], T]) -> T:
        """Send one request to this address alone, one of `endpoints` or another of the same cluster. Raises Unavailable
        if it does not answer, which does not count as a failure of etcd."""
        body = msgspec.json.encode(request)
        return parse(await self._post(endpoint.rstrip("/"), path, body, _Sending(), self._timeout_s, ANSWER_BYTES))

    async def open_stream(self, path: str, request: msgspec.Struct) -> Stream:
        """Open a stream at the current endpoint and wait for its first line. The caller closes it with `close_stream`.
        Raises Unavailable."""
        endpoint, token = self._endpoints[self._current], ""
        try:
            token = await self._token_for(endpoint)
            self._check_open()
            return await self._connect_stream(endpoint, path, msgspec.json.encode(request), token)
        except EndpointFailed as failure:
            if isinstance(failure, _TimedOut):
                self.forget_token(token)
            self._fail_over(endpoint, failure)
            raise

    def close_stream(self, stream: Stream) -> None:
        stream.close()
        if stream in self._streams:
            self._streams.remove(stream)

    def forget_token(self, token: str) -> None:
        """Authenticate again before the next request, because etcd refused this token or a request with it timed out:
        etcd restored from a snapshot does not answer to a newer token until it has reached that token's revision."""
        if self._token == token:
            self._token = None

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

    def _fail_over(self, endpoint: str, failure: EndpointFailed) -> None:
        """Use the next endpoint, unless another request has switched already. Close the endpoint's streams too: a
        stream to a frozen member would not fail by itself."""
        if endpoint not in self._failing and not self._closed.is_set():
            log.warning("etcd at %s fails: %s", without_user(endpoint), failure)
        self._failing.add(endpoint)
        if self._endpoints[self._current] != endpoint:
            return
        self._current = (self._current + 1) % len(self._endpoints)
        for stream in self._streams:
            if stream.endpoint == endpoint:
                stream.close()

    async def _connect_stream(self, endpoint: str, path: str, body: bytes, token: str) -> Stream:
        with _failures_named(self._timeout_s), ExitStack() as undo:
            async with asyncio.timeout(self._timeout_s):
                response = await self._streaming.post(
                    endpoint + path, data=body, headers=_headers(token), allow_redirects=False
                )
                stream = Stream(endpoint, token, response)
                self._streams.append(stream)
                undo.callback(self.close_stream, stream)
                if response.status != 200:
                    raise _parse_refusal(response, await response.content.read(ANSWER_BYTES))
                _keep_alive(response)
                await stream.wait()
            undo.pop_all()
            return stream

    async def _post(
        self, endpoint: str, path: str, body: bytes, sending: _Sending, timeout_s: float, most_bytes: int
    ) -> bytes:
        token = await self._token_for(endpoint)
        try:
            return await self._exchange(endpoint + path, body, token, sending, timeout_s, most_bytes)
        except _TimedOut:
            self.forget_token(token)
            raise
        except Refused as refusal:
            if not self._username or not refusal.says(*wire.NEED_TOKEN):
                raise
        sending.begun = False  # etcd refused it, so it was not executed
        self.forget_token(token)
        token = await self._token_for(endpoint)
        return await self._exchange(endpoint + path, body, token, sending, timeout_s, most_bytes)

    async def _exchange(
        self, url: str, body: bytes, token: str, sending: _Sending, timeout_s: float, most_bytes: int = ANSWER_BYTES
    ) -> bytes:
        """Post, and return the whole answer. The timeout is for each stretch without a byte. Raises AnswerTooLarge."""
        self._check_open()
        chunks = []
        size = 0
        with _failures_named(timeout_s):
            async with (
                _IdleTimeout(timeout_s) as timeout,
                self._requests.post(
                    url, data=body, headers=_headers(token), trace_request_ctx=sending, allow_redirects=False
                ) as response,
            ):
                async for chunk in response.content.iter_any():
                    chunks.append(chunk)
                    timeout.restart()
                    size += len(chunk)
                    if size > most_bytes:
                        response.close()
                        raise AnswerTooLarge(f"etcd's answer is larger than {most_bytes} bytes")
        if response.status != 200:
            raise _parse_refusal(response, b"".join(chunks))
        return b"".join(chunks)

    async def _token_for(self, endpoint: str) -> str:
        """The token to send, fetched if there is none; '' if there is no user, or if etcd's authentication is off."""
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
            if refusal.says(wire.AUTHENTICATION_IS_OFF):
                return ""
            raise Unavailable(
                f"etcd at {without_user(endpoint)} does not let user {self._username} in: {refusal.error}; "
                "check etcd_username and etcd_password"
            ) from refusal
        return wire.parse_authenticate(answer).token


def _new_session(tls: EtcdTls | None) -> aiohttp.ClientSession:
    """A client with unlimited connections (with a limit, requests would wait for each other's timeouts) and no cookies.
    Without `tls`, it trusts no certificate."""
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_note_sending)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls.context if tls else True),
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


def _parse_refusal(response: aiohttp.ClientResponse, body: bytes) -> EndpointFailed | Refused:
    if 300 <= response.status < 400:
        target = without_user(response.headers.get("Location", "nowhere"))[:200]
        return EndpointFailed(f"it redirects to {target!r}, which is not followed: name etcd itself in etcd_servers")
    return parse_refusal(response.status, body)


def _headers(token: str) -> dict[str, str]:
    content = {"Content-Type": "application/json"}
    return {**content, "Authorization": token} if token else content


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    transport = response.connection.transport if response.connection else None
    if transport is None:
        return  # disconnected already: the next read fails
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


@contextmanager
def _failures_named(timeout_s: float = 0) -> Iterator[None]:
    """Raise EndpointFailed for failures of the connection."""
    try:
        yield
    except TimeoutError as error:
        raise _TimedOut(f"no answer for {timeout_s:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise EndpointFailed(without_user(str(error)) or type(error).__name__) from error
