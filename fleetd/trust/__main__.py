"""Makes and signs certificates in a process of its own: fleetd itself never imports the library that does it.

Reads one call as JSON from standard input, `{"verb": …, "arguments": {…}}`, and writes its answer, `{"result": …}`, or
`{"error": …}` in words for whoever asked.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from fleetd.model.certificate import Authority
from fleetd.trust import x509


def _make_authority(number: int, now_s: float, life_s: float) -> Authority:
    return x509.make_authority(number, now_s, life_s)


def _sign(authority: Mapping[str, Any], **arguments: Any) -> str:
    return x509.sign(msgspec.convert(authority, Authority), **arguments)


def _issue(key: str, **arguments: Any) -> tuple[str, str]:
    """A certificate of a key that is made for it, or of this one: the key, and the certificate."""
    key, request = x509.make_request(key)
    return key, _sign(request=request, **arguments)


def _inspect(certificate: str, authorities: Iterable[str], request: str) -> dict[str, object]:
    """What a certificate says. Raises ValueError if none of these authorities has signed it, whenever that was, or if
    the request ('': there is none) is not made with its key."""
    if not any(x509.is_signed_by(certificate, authority) for authority in authorities):
        raise ValueError("the certificate is of another authority than those of this cluster")
    if request and not x509.has_key_of(request, certificate):
        raise ValueError("the request is not made with the key of the certificate")
    return x509.describe(certificate)


VERBS: Mapping[str, Callable[..., object]] = {
    "make-authority": _make_authority,
    "make-request": x509.make_request,
    "sign": _sign,
    "issue": _issue,
    "inspect": _inspect,
    "fingerprint": x509.fingerprint,
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
    sys.stdout.buffer.write(answer(sys.stdin.buffer.read()))
