"""The API on real sockets, and a plain client for them."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from fleetd.api.http import Request, Response, render_json
from fleetd.api.peer import PeerRights, user_name
from fleetd.api.routes import Api
from fleetd.api.server import Server
from fleetd.api.tls_listener import ServerTrust
from fleetd.config.options import Address

LOOPBACK = "127.0.0.1"


class Echo(Api):
    """Answers with the request as it arrived."""

    def __init__(self) -> None:
        self.mistaken = False
        self.stalled = asyncio.Event()

    async def handle(self, request: Request) -> Response:
        if request.path == "/stall":
            self.stalled.set()
            await asyncio.sleep(3600)
        if request.path == "/mistake":
            raise ZeroDivisionError
        return render_json(
            {
                "method": request.method,
                "path": request.path,
                "query": request.query,
                "types": request.header_values("content-type"),
                "body": len(request.body),
                "local": request.local,
            }
        )


@contextlib.asynccontextmanager
async def serving(
    api: Api,
    *addresses: Address,
    peer_rights: PeerRights | None = None,
    name_of: Callable[[int], str] = user_name,
    trust: ServerTrust | None = None,
    **options: Any,
) -> AsyncIterator[Server]:
    server = Server(api, peer_rights=peer_rights, name_of=name_of, trust=trust)
    await server.start(addresses, insecure=True, **options)
    try:
        yield server
    finally:
        await server.stop()


class Client(HTTPConnection):
    """A plain client of an address, or one with TLS in this context."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(address.host or "fleet", timeout=60)
        self.address = address
        self.tls = tls

    def connect(self) -> None:
        if self.address.path:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(10)
            self.sock.connect(self.address.path)
        else:
            self.sock = socket.create_connection((self.address.host, self.address.port), timeout=60)
        if self.tls:
            self.sock = self.tls.wrap_socket(self.sock)


async def ask(client: Client, method: str, path: str, **options: Any) -> tuple[HTTPResponse, bytes]:
    """Make one request outside the loop that serves it."""

    def blocking() -> tuple[HTTPResponse, bytes]:
        client.request(method, path, **options)
        response = client.getresponse()
        return response, response.read()

    return await asyncio.to_thread(blocking)
