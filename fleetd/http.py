"""aiohttp, imported without the certificates of the system's authorities. Nothing of fleet's own HTTP lives here.

When it is imported, aiohttp makes itself a TLS context that trusts them all: two MiB, on every machine, for connections
that fleetd does not make. TLS to etcd has a context of its own (store/etcd_tls.py); without one, aiohttp trusts
nobody from here on. Whoever needs aiohttp takes it from here, so that this is its first import.
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
    from aiohttp import web
    from aiohttp.http_exceptions import LineTooLong

__all__ = ["LineTooLong", "aiohttp", "web"]
