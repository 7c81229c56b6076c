"""Asks servers for the next certificate of a worker (POST /fleet/v2/renew), in the process that makes the request."""

import ssl
import time
from collections.abc import Sequence
from http.client import HTTPException, HTTPSConnection
from urllib.parse import urlsplit

import msgspec

from fleetd import __version__
from fleetd.model.decoding import UNREADABLE

PATH = "/fleet/v2/renew"
TIMEOUT_S = 20.0  # for each server
MAX_ANSWER = 1024 * 1024  # bytes
_OF_CLOCKS = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED


class Renewal(msgspec.Struct, frozen=True):
    """The next certificate, the authorities to trust, and the https URLs of the servers."""

    certificate: str
    authorities: str
    servers: tuple[str, ...] = ()


class _Detail(msgspec.Struct, frozen=True):
    message: str = ""


class _Refusal(msgspec.Struct, frozen=True):
    error: _Detail = _Detail()


def ask_servers(servers: Sequence[str], certificate: str, request: str, authorities: Sequence[str]) -> Renewal:
    """The answer of the first server that gives one. Only those are asked that one of these authorities has signed a
    certificate for. Raises ValueError, with what each has said."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # servers' certificates alone may serve
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata="".join(authorities))
    body = msgspec.json.encode({"certificate": certificate, "csr": request})
    refusals = []
    for server in servers:
        try:
            return _ask(server, body, context)
        except ValueError as error:
            refusals.append(f"{server}: {error}")
    raise ValueError("; ".join(refusals) or "no server is known")


def _ask(server: str, body: bytes, context: ssl.SSLContext) -> Renewal:
    url = urlsplit(server)
    connection = HTTPSConnection(url.hostname or "", url.port, timeout=TIMEOUT_S, context=context)
    headers = {"User-Agent": f"fleetd/{__version__}", "Content-Type": "application/json"}
    try:
        connection.request("POST", PATH, body, headers)
        answer = connection.getresponse()
        content = answer.read(MAX_ANSWER)
        if answer.status == 200:
            return msgspec.json.decode(content, type=Renewal)
        raise ValueError(msgspec.json.decode(content, type=_Refusal).error.message or answer.reason)
    except ssl.SSLCertVerificationError as error:
        why = f"its certificate does not count ({error.verify_message})"
        if error.verify_code in _OF_CLOCKS:
            why += f"; is the clock of this machine right ({time.strftime('%Y-%m-%d %H:%M')})?"
        raise ValueError(why) from error
    except (OSError, HTTPException) as error:
        raise ValueError(
            (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        ) from error
    except UNREADABLE as error:
        raise ValueError(f"what answers there is no fleetd: {error}") from error
    finally:
        connection.close()
