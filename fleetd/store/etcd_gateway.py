"""HTTP to etcd's v3 JSON gateway: endpoints and failover, timeouts, TLS, authentication, streams.

What the requests mean is etcd.py's, their shapes are etcd_wire.py's. This module alone in the store knows aiohttp.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import msgspec

from fleetd.aiohttp_import import aiohttp
from fleetd.store import etcd_wire as wire
from fleetd.store.etcd_tls import EtcdTls
from fleetd.store.etcd_wire import EndpointFailed, Refused, asks_for_token, parse_refusal
from fleetd.store.protocol import Unavailable
from fleetd.url import without_user

T = TypeVar("T")

log = logging.getLogger(__name__)

# a stream may be silent for ever, so the kernel finds out whether the other side is still there: after 30 to 60 s
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


# How many times as long a request is waited for that must not be carried out twice: no other endpoint is asked, so that
# nothing is gained by giving it up early, and who gives it up has to read everything again.
PATIENCE_WITH_WRITES = 2

# Bounds on what is taken from an etcd, or from who answers in its place: without them, an answer without end is taken
# until memory is. The largest that etcd has reason for is of one transaction that reads 128 unit files.
ANSWER_BYTES = 2 * 1024 * 1024
LINE_BYTES = 32 * 1024 * 1024  # etcd cuts what it has to tell of several keys into parts of about two MiB
LONGEST_ANSWER_S = 60.0  # from the first byte to the last, however it trickles
_STEPS = 4  # in which a time-out is counted


class AnswerTooLarge(EndpointFailed):
    """There is more to the answer than is taken."""


class _TimedOut(EndpointFailed):
    """The endpoint did not answer in time."""


class _Sending:
    """`begun` is true once a request may have been sent: if it fails then, it may or may not have been executed."""

    begun = False


class Stream:
    """One streamed answer, line by line. Closed from outside (its endpoint failed elsewhere), it ends as if cut."""

    def __init__(self, endpoint: str, token: str, response: aiohttp.ClientResponse) -> None:
        self.endpoint = endpoint
        self.token = token
        self._response = response
        self._lines: deque[bytes] = deque()
        self._partial: list[bytes] = []  # of a line whose end has not come yet
        self._partial_bytes = 0

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
            self._partial_bytes += len(chunk)
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                self._lines.append(b"".join((*self._partial, end)))
                self._partial, self._partial_bytes = [], len(rest)
            self._partial.append(rest)
            if self._partial_bytes > LINE_BYTES:
                raise EndpointFailed(f"a line of the stream is longer than {LINE_BYTES} bytes: this is no etcd")

    def close(self) -> None:
        self._response.close()


class _Patience:
    """A time-out that begins anew with each byte (`renew`), up to a bound for all of them together.

    It is counted in steps, and a loop that was held up by other work, so that it did not get to look what has arrived
    meanwhile, counts as one: etcd is not to be blamed for that.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._step_s = seconds / _STEPS
        self._left = _STEPS
        self._ends_s = self._loop.time() + LONGEST_ANSWER_S
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> "_Patience":
        await self._timeout.__aenter__()
        self._timer = self._loop.call_later(self._step_s, self._count)
        return self

    async def __aexit__(self, *exception: Any) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(*exception)

    def renew(self) -> None:
        """Something has come."""
        self._left = _STEPS

    def _count(self) -> None:
        self._left -= 1
        if self._left <= 0 or self._loop.time() > self._ends_s:
            self._timeout.reschedule(self._loop.time())
        else:
            self._timer = self._loop.call_later(self._step_s, self._count)


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
        tls: EtcdTls | None = None,
    ) -> None:
        if not endpoints:
            raise ValueError("no etcd endpoint is given")
        self._endpoints = tuple(endpoint.rstrip("/") for endpoint in endpoints)
        self._tls = tls
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

    def refresh(self) -> None:
        """Use the TLS files as they are now, where they are others than before."""
        if self._tls:
            self._tls.refresh()

    async def call(
        self,
        path: str,
        request: msgspec.Struct,
        parse: Callable[[bytes], T],
        *,
        repeat: bool,
        most_bytes: int = ANSWER_BYTES,
    ) -> T:
        """Send one request. With `repeat` it is safe to execute it twice; else another endpoint is tried only if the
        request was never sent to the first. Raises Refused, Unavailable, and AnswerTooLarge for an answer of more than
        `most_bytes`, if that is more than usual."""
        body = msgspec.json.encode(request)
        timeout_s = self._timeout_s if repeat else PATIENCE_WITH_WRITES * self._timeout_s
        failures = []
        for endpoint in self._endpoints_in_turn():
            sending = _Sending()
            try:
                answer = parse(await self._post(endpoint, path, body, sending, timeout_s, most_bytes))
            except EndpointFailed as failure:
                if isinstance(failure, AnswerTooLarge) and most_bytes > ANSWER_BYTES:
                    raise  # that may be what there is to tell
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
            log.warning("etcd at %s fails: %s", without_user(endpoint), failure)
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
            if not self._username or not asks_for_token(str(refusal)):
                raise
        sending.begun = False  # refused: it was certainly not carried out
        self.forget_token(token)
        token = await self._token_for(endpoint)
        return await self._exchange(endpoint + path, body, token, sending, timeout_s, most_bytes)

    async def _exchange(
        self, url: str, body: bytes, token: str, sending: _Sending, timeout_s: float, most_bytes: int = ANSWER_BYTES
    ) -> bytes:
        """Post, and read the whole answer. The timeout is for each stretch without a byte. Raises AnswerTooLarge."""
        self._check_open()
        chunks = []
        size = 0
        with _failures_named(timeout_s):
            async with (
                _Patience(timeout_s) as patience,
                self._requests.post(
                    url, data=body, headers=_headers(token), trace_request_ctx=sending, allow_redirects=False
                ) as response,
            ):
                async for chunk in response.content.iter_any():
                    chunks.append(chunk)
                    patience.renew()
                    size += len(chunk)
                    if size > most_bytes:
                        response.close()
                        raise AnswerTooLarge(f"its answer is larger than {most_bytes} bytes")
        if response.status != 200:
            raise _parse_refusal(response, b"".join(chunks))
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
                f"etcd at {without_user(endpoint)} does not let user {self._username} in: {refusal}; "
                "check etcd_username and etcd_password"
            ) from refusal
        return wire.parse_authenticate(answer).token


def _new_session(tls: EtcdTls | None) -> aiohttp.ClientSession:
    """A pool without bound (a bound would make requests wait on each other's timeouts) or memory of its own. Without
    `tls`, no server is trusted."""
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_note_sending)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls.context if tls else True),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[trace],
        trust_env=False,
        auto_decompress=False,  # nothing compressed is asked for, and a little of it may be much
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
        raise EndpointFailed(without_user(str(error)) or type(error).__name__) from error
