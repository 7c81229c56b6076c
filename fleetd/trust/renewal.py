"""Asks servers over https, in a process that ends with it: for the next certificate of a worker, and for the keys of
authorities that another server has in files."""

import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import HTTPException, HTTPSConnection
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from fleetd import __version__
from fleetd.model.certificate import Authority, CertificateIdentity, Revocation, is_revoked
from fleetd.model.decoding import UNREADABLE
from fleetd.trust.contexts import CLOCK_ERRORS, client_context, refuse_servers

RENEW = "/fleet/v2/renew"
KEYS = "/fleet/v2/authority-keys"
T = TypeVar("T")

TIMEOUT_S = 20.0  # for each server
MAX_ANSWER = 1024 * 1024  # bytes


class Renewal(msgspec.Struct, frozen=True):
    """The next certificate, the authorities to trust, and the https URLs of the servers."""

    certificate: str
    authorities: str
    servers: tuple[str, ...] = ()


class _Detail(msgspec.Struct, frozen=True):
    message: str = ""


class _Refusal(msgspec.Struct, frozen=True):
    error: _Detail = _Detail()


class KeysAnswer(msgspec.Struct, frozen=True):
    """The authorities whose private keys are in files of a server."""

    keys: tuple[Authority, ...] = ()


def ask_servers(
    servers: Sequence[str],
    certificate: str,
    request: str,
    authorities: Sequence[str],
    own: tuple[str, str],
    revocations: Sequence[Revocation] = (),
) -> Renewal:
    """The renewed certificate, of the first server that gives one. Only those are asked that one of these authorities
    has signed a certificate for, and that is not revoked. `own` are the files with the certificate and its key: who
    shows one that counts does not wait behind strangers. Raises ValueError, with what each has said."""
    body = msgspec.json.encode({"certificate": certificate, "csr": request})
    stranger, known = client_context(authorities), client_context(authorities)

    def refuse(server: CertificateIdentity) -> str:
        return f"{server.subject} was removed from the cluster" if is_revoked(server, revocations) else ""

    for context in (stranger, known):
        refuse_servers(context, refuse)
    with suppress(OSError):
        known.load_cert_chain(*own)

    def ask(server: str) -> Renewal:
        try:
            return _ask(server, "POST", RENEW, body, known, Renewal)
        except ValueError as error:
            if not isinstance(error.__cause__, ssl.SSLError | ConnectionError):
                raise
        return _ask(server, "POST", RENEW, body, stranger, Renewal)  # TLS has refused the certificate

    return _ask_each(servers, ask)


def fetch_keys(
    servers: Sequence[str], own: tuple[str, str], authorities: Sequence[str], wanted: str
) -> tuple[Authority, ...]:
    """The keys of authorities, of the first server that has that of the certificate `wanted`. `own` are the files with
    the certificate and the key of the server that asks. Raises ValueError, with what each has said."""
    context = client_context(authorities)
    try:
        context.load_cert_chain(*own)
    except OSError as error:
        raise ValueError(f"cannot use the certificate {own[0]}: {error}") from error
    refusals = []
    for server in servers:
        try:
            found = _ask(server, "GET", KEYS, None, context, KeysAnswer).keys
        except ValueError as error:
            refusals.append(f"{server}: {error}")
            continue
        if any(each.certificate == wanted for each in found):
            return found
        refusals.append(f"{server}: it does not have it")
    raise ValueError("; ".join(refusals) or "no other server serves https")


def _ask_each(servers: Sequence[str], ask: Callable[[str], T]) -> T:
    refusals = []
    for server in servers:
        try:
            return ask(server)
        except ValueError as error:
            refusals.append(f"{server}: {error}")
    raise ValueError("; ".join(refusals) or "no server is known")


def _ask(server: str, method: str, path: str, body: bytes | None, context: ssl.SSLContext, kind: type[T]) -> T:
    url = urlsplit(server)
    connection = HTTPSConnection(url.hostname or "", url.port, timeout=TIMEOUT_S, context=context)
    headers = {"User-Agent": f"fleetd/{__version__}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read(MAX_ANSWER)
        if answer.status == 200:
            return msgspec.json.decode(content, type=kind)
        raise ValueError(msgspec.json.decode(content, type=_Refusal).error.message or answer.reason)
    except ssl.SSLCertVerificationError as error:
        why = f"its certificate does not count ({error.verify_message})"
        if error.verify_code in CLOCK_ERRORS:
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
