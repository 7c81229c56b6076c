"""The parts of aiohttp that fleetd uses, imported without the system's CA certificates.

On import, aiohttp makes a TLS context with all of them, two MiB that fleetd never uses: TLS to etcd has its own context
(store/etcd_tls.py). Without that one, aiohttp trusts no certificate from here on. All of fleetd imports aiohttp from
here, so that this is the first import. The bare server protocol is enough; aiohttp.web takes 1.3 MiB more.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_LOCATIONS = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # where OpenSSL looks for CA certificates


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
