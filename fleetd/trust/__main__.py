"""Makes and signs certificates in a process of its own: fleetd itself never imports the library that does it.

Reads one call as JSON from standard input, `{"verb": …, "arguments": {…}}`, and writes its answer, `{"result": …}`, or
`{"error": …}` in words for the user or the machine that asked.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from fleetd.model.certificate import Authority, Revocation
from fleetd.trust import x509
from fleetd.trust.renewal import Renewal, ask_servers, fetch_keys


def _make_authority(
    number: int, now_s: float, life_s: float, former: Mapping[str, Any] | None
) -> tuple[Authority, str]:
    """A new authority, and its certificate as the former one signs it, '' without one."""
    made = x509.make_authority(number, now_s, life_s)
    if former is None:
        return made, ""
    return made, x509.cross_sign(msgspec.convert(former, Authority), made.certificate, now_s)


def _sign(authority: Mapping[str, Any], **arguments: Any) -> str:
    return x509.sign(msgspec.convert(authority, Authority), **arguments)


def _issue(key: str, **arguments: Any) -> tuple[str, str]:
    """A certificate of a key that is made for it, or of this one: the key, and the certificate."""
    key, request = x509.make_request(key)
    return key, _sign(request=request, **arguments)


def _inspect(certificate: str, authorities: Sequence[str], request: str) -> tuple[dict[str, object], int]:
    """What a certificate says, and which of the authorities has signed it, whenever that was. Raises ValueError if none
    has, or if the request ('': there is none) is not made with its key."""
    signers = [at for at, authority in enumerate(authorities) if x509.is_signed_by(certificate, authority)]
    if not signers:
        raise ValueError("the certificate is not of an authority that this cluster trusts now")
    if request and not x509.has_key_of(request, certificate):
        raise ValueError("the request is not made with the key of the certificate")
    return x509.describe(certificate), signers[0]


def _renew(
    servers: Sequence[str],
    key: str,
    certificate: str,
    authorities: Sequence[str],
    own: tuple[str, str],
    revocations: Sequence[Mapping[str, Any]] = (),
) -> Renewal:
    """The next certificate of a worker. Raises ValueError."""
    _, request = x509.make_request(key)
    revoked = msgspec.convert(revocations, tuple[Revocation, ...])
    found = ask_servers(servers, certificate, request, authorities, own, revoked)
    if not x509.has_key_of(request, found.certificate):
        raise ValueError("the server has made a certificate of another key")
    return found


def _fetch_keys(
    servers: Sequence[str], own: tuple[str, str], authorities: Sequence[str], wanted: str
) -> tuple[Authority, ...]:
    """The keys that another server has, each of which fits its certificate. Raises ValueError."""
    found = fetch_keys(servers, own, authorities, wanted)
    return tuple(each for each in found if x509.is_key_of(each.key, each.certificate))


VERBS: Mapping[str, Callable[..., object]] = {
    "make-authority": _make_authority,
    "make-request": x509.make_request,
    "sign": _sign,
    "issue": _issue,
    "inspect": _inspect,
    "renew": _renew,
    "fetch-keys": _fetch_keys,
}


class _Call(msgspec.Struct):
    verb: str
    arguments: dict[str, Any]


def answer(call: bytes) -> bytes:
    """The answer to a call."""
    asked = msgspec.json.decode(call, type=_Call)
    try:
        return msgspec.json.encode({"result": VERBS[asked.verb](**asked.arguments)})
    except ValueError as error:
        return msgspec.json.encode({"error": str(error)})


if __name__ == "__main__":
    with suppress(OSError):  # strangers can have it run: fleetd itself has better things to do
        os.nice(10)
    sys.stdout.buffer.write(answer(sys.stdin.buffer.read()))
