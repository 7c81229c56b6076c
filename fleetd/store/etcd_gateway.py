"""HTTP client of etcd's v3 JSON gateway: its format, and authentication by a token."""

import asyncio
from collections.abc import Sequence

import msgspec

from fleetd.store import etcd_wire as wire
from fleetd.store.etcd_tls import EtcdTls
from fleetd.store.etcd_wire import Refused
from fleetd.store.failures import EndpointFailed
from fleetd.store.http_gateway import Gateway, Sending, Stream, TimedOut, failures_named
from fleetd.store.protocol import Unavailable
from fleetd.url import without_user

LINE_BYTES = 32 * 1024 * 1024  # with fragments on, etcd splits the events of several keys into parts of about two MiB


class Lines:
    """Splits a stream into lines, however long. (aiohttp's own iteration fails on lines above 512 KiB.)"""

    def __init__(self) -> None:
        self._partial: list[bytes] = []  # the beginning of the next line
        self._partial_bytes = 0

    def split(self, chunk: bytes) -> Sequence[bytes]:
        lines = []
        self._partial_bytes += len(chunk)
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            lines.append(b"".join((*self._partial, end)))
            self._partial, self._partial_bytes = [], len(rest)
        self._partial.append(rest)
        if self._partial_bytes > LINE_BYTES:
            raise EndpointFailed(f"a line of the stream is longer than {LINE_BYTES} bytes: this is not etcd")
        return lines


class EtcdFormat:
    """JSON, and streams of lines."""

    name = "etcd"
    remedy = "name etcd itself in etcd_servers"
    content_type = "application/json"
    idle_s = 15.0

    def encode(self, request: msgspec.Struct) -> bytes:
        return msgspec.json.encode(request)

    def parse_refusal(self, status: int, body: bytes) -> Exception:
        return wire.parse_refusal(status, body)

    def new_splitter(self) -> Lines:
        return Lines()


class EtcdGateway(Gateway):
    """The connections to one etcd cluster. With a `username`, requests carry a token, which is fetched when one is
    needed."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        request_timeout_s: float,
        username: str = "",
        password: str = "",
        tls: EtcdTls | None = None,
    ) -> None:
        context = (lambda: tls.context) if tls else None
        super().__init__(endpoints, EtcdFormat(), request_timeout_s=request_timeout_s, context=context)
        self._username = username
        self._password = password
        self._token: str | None = None
        self._authenticating = asyncio.Lock()

    def forget_token(self, token: str) -> None:
        """Authenticate again before the next request, because etcd refused this token or a request with it timed out:
        etcd restored from a snapshot does not answer to a newer token until it has reached that token's revision."""
        if self._token == token:
            self._token = None

    async def _open_stream_at(self, endpoint: str, path: str, body: bytes) -> Stream:
        token = ""
        try:
            token = await self._token_for(endpoint)
            self._check_open()
            return await self._connect_stream(endpoint, path, body, token)
        except TimedOut:
            self.forget_token(token)
            raise

    async def _post(
        self, endpoint: str, path: str, body: bytes, sending: Sending, timeout_s: float, most_bytes: int
    ) -> bytes:
        token = await self._token_for(endpoint)
        try:
            return await self._exchange(endpoint + path, body, token, sending, timeout_s, most_bytes)
        except TimedOut:
            self.forget_token(token)
            raise
        except Refused as refusal:
            if not self._username or not refusal.says(*wire.NEED_TOKEN):
                raise
        sending.begun = False  # etcd refused it, so it was not executed
        self.forget_token(token)
        token = await self._token_for(endpoint)
        return await self._exchange(endpoint + path, body, token, sending, timeout_s, most_bytes)

    async def _token_for(self, endpoint: str) -> str:
        """The token to send, fetched if there is none; '' if there is no user, or if etcd's authentication is off."""
        if not self._username:
            return ""
        with failures_named(self._timeout_s):
            async with asyncio.timeout(self._timeout_s), self._authenticating:
                if self._token is None:
                    self._token = await self._authenticate(endpoint)
                return self._token

    async def _authenticate(self, endpoint: str) -> str:
        request = wire.AuthenticateRequest(self._username, self._password)
        try:
            answer = await self._exchange(
                endpoint + "/v3/auth/authenticate", msgspec.json.encode(request), "", Sending(), self._timeout_s
            )
        except Refused as refusal:
            if refusal.says(wire.AUTHENTICATION_IS_OFF):
                return ""
            raise Unavailable(
                f"etcd at {without_user(endpoint)} does not let user {self._username} in: {refusal.error}; "
                "check etcd_username and etcd_password"
            ) from refusal
        return wire.parse_authenticate(answer).token
