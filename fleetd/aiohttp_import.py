"""aiohttp: what fleetd needs of it, imported without the certificates of the system's authorities.

When it is imported, aiohttp makes itself a TLS context that trusts them all: two MiB, on every machine, for connections
that fleetd does not make. TLS to etcd has a context of its own (store/etcd_tls.py); without one, aiohttp trusts
nobody from here on. All of fleetd takes aiohttp from here, so that this is its first import. Of its server the bare
protocol is enough: aiohttp.web as a whole, with applications and routes, takes 1.3 MiB more.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_LOCATIONS = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # where OpenSSL is told to look for authorities


@contextmanager
def _no_authorities() -> Iterator[None]:
    former = {name: os.environ[name] for name in _LOCATIONS if name in os.environ}
    os.environ.update(dict.fromkeys(_LOCATIONS, os.devnull))
    try:
        yield
    finally:
        for name in _LOCATIONS:
            del os.environ[name]
        os.environ.update(former)


with _no_authorities():
    import aiohttp
    from aiohttp.http_exceptions import LineTooLong
    from aiohttp.web_protocol import RequestHandler
    from aiohttp.web_request import BaseRequest
    from aiohttp.web_response import Response, StreamResponse
    from aiohttp.web_server import Server

__all__ = ["BaseRequest", "LineTooLong", "RequestHandler", "Response", "Server", "StreamResponse", "aiohttp"]
