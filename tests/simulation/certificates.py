"""Certificates of the simulator, which sign nothing and have the form of it, and TLS by them.

A certificate is JSON in the armour of PEM. It says whose key it is of and whose key has signed it; a private key is
the name of a public one. fleetd/trust/__main__.py makes and signs real ones, fleetd/trust/contexts.py has real TLS.
"""

import base64
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import isawaitable
from pathlib import Path
from typing import Any, cast

import msgspec

from fleetd.model.certificate import (
    BACKDATED_S,
    MONTHS,
    Authority,
    Revocation,
    is_revoked,
    parse_peer_certificate,
    split_pem,
)
from fleetd.trust.contexts import Refuse
from fleetd.trust.renewal import KeysAnswer, Renewal

_BEGIN, _END = "-----BEGIN CERTIFICATE-----\n", "\n-----END CERTIFICATE-----\n"
_KEY, _REQUEST = "PRIVATE KEY OF ", "REQUEST BY "


class Paper(msgspec.Struct, frozen=True):
    """What a certificate says: the public key that it is of, the one that has signed it, and what is in it."""

    key: str
    issuer: str
    begins_s: float
    ends_s: float
    serial: str
    uris: tuple[str, ...] = ()
    serves: bool = False  # it may be shown by a server
    is_authority: bool = False

    def __str__(self) -> str:
        """As PEM."""
        return f"{_BEGIN}{base64.b64encode(msgspec.json.encode(self)).decode()}{_END}"

    def describe(self) -> dict[str, Any]:
        """What `getpeercert()` says."""
        return {
            "subjectAltName": [("URI", uri) for uri in self.uris],
            "notBefore": _print_time(self.begins_s),
            "notAfter": _print_time(self.ends_s),
            "serialNumber": self.serial,
        }


def read_paper(pem: str) -> Paper:
    """What one certificate says. Raises ValueError."""
    try:
        (text,) = split_pem(pem)
        return msgspec.json.decode(base64.b64decode(text.removeprefix(_BEGIN).removesuffix(_END)), type=Paper)
    except (ValueError, msgspec.DecodeError) as error:
        raise ValueError(f"no certificate: {error}") from error


class SimulatedTls:
    """A context: which authorities it trusts, what it shows, and which servers it refuses."""

    def __init__(self, trusted: Sequence[str], refuse: Refuse | None = None) -> None:
        self.trusted = dict.fromkeys(map(read_paper, trusted))
        self.shown: tuple[Paper, ...] = ()  # this side's certificate, and what is sent along with it
        self.refuse = refuse

    def show(self, certificate: Path, key: Path) -> None:
        """Show this certificate from now on. Raises OSError."""
        try:
            shown = tuple(map(read_paper, split_pem(certificate.read_text())))
        except ValueError as error:
            raise ssl.SSLError(str(error)) from error
        if not shown or key.read_text() != _KEY + shown[0].key:
            raise ssl.SSLError("the key is not that of the certificate")
        self.shown = shown

    def find_flaw(self, shown: Sequence[Paper], now_s: float | None) -> str:
        """Why no authority that is trusted has signed this, '' if one has; with a time, also whether it counts then."""
        at = shown[0]
        for _ in range(len(shown) + 1):
            if now_s is not None and not at.begins_s <= now_s < at.ends_s:
                return "certificate has expired, or is not valid yet"
            trusted = next((each for each in self.trusted if each.key in (at.issuer, at.key)), None)
            if trusted is not None:
                return "" if now_s is None or now_s < trusted.ends_s else "its authority has expired"
            following = next((each for each in shown[1:] if each.is_authority and each.key == at.issuer), None)
            if following is None or following is at:
                break
            at = following
        return "unable to get local issuer certificate"


class TlsRefused(Exception):
    """There is no connection. The message says why."""


def shake_hands(client: SimulatedTls, server: SimulatedTls | None, now_s: float) -> Mapping[str, Any] | None:
    """What the server sees of the client's certificate, whose wall clock says `now_s`; None if the client has none.
    Raises TlsRefused."""
    if server is None or not server.shown:
        raise TlsRefused("the server has no certificate")
    if flaw := client.find_flaw(server.shown, now_s):
        raise TlsRefused(f"certificate verify failed: {flaw}")
    if not server.shown[0].serves:
        raise TlsRefused("certificate verify failed: unsuitable certificate purpose")
    if client.refuse and (refusal := client.refuse(parse_peer_certificate(server.shown[0].describe()))):
        raise TlsRefused(f"certificate verify failed: {refusal}")
    if not client.shown:
        return None
    if server.find_flaw(client.shown, None):
        raise TlsRefused("it does not know the authority that signed this machine's certificate")
    return client.shown[0].describe()


class SimulatedContexts:
    """The contexts of a machine, as fleetd/trust/contexts.py has them."""

    def __init__(self, refuse: Refuse | None = None) -> None:
        self._refuse = refuse
        self._trusted: tuple[str, ...] = ()
        self._certificate: tuple[Path, Path] | None = None
        self._server, self._client = self._make()

    @property
    def server(self) -> ssl.SSLContext | None:
        return cast(ssl.SSLContext, self._server) if self._certificate else None

    @property
    def client(self) -> ssl.SSLContext:
        return cast(ssl.SSLContext, self._client)

    def can_trust(self, certificate: str) -> bool:
        try:
            return read_paper(certificate).is_authority
        except ValueError:
            return False

    def trust(self, authorities: Sequence[str]) -> None:
        former, self._trusted = self._trusted, tuple(authorities)
        if not set(former) <= set(authorities):
            self._server, self._client = self._make()
        for context in (self._server, self._client):
            context.trusted |= dict.fromkeys(map(read_paper, authorities))

    def load(self, certificate: Path, key: Path) -> None:
        SimulatedTls(()).show(certificate, key)
        self._certificate = certificate, key
        self._server.show(certificate, key)
        _, self._client = self._make()

    def _make(self) -> tuple[SimulatedTls, SimulatedTls]:
        server, client = SimulatedTls(self._trusted), SimulatedTls(self._trusted, self._refuse)
        for context in (server, client):
            if self._certificate:
                context.show(*self._certificate)
        return server, client


Ask = Callable[[str, str, str, bytes, SimulatedTls], Awaitable[tuple[int, bytes]]]


class _Call(msgspec.Struct):
    verb: str
    arguments: dict[str, Any]


class SimulatedSigning:
    """Answers the calls of a Signer, as the process of fleetd/trust/__main__.py does. `take_time` is awaited before
    each; `ask` sends a request (URL, method, path, body, TLS) and returns status and body, or raises OSError."""

    def __init__(self, new_id: Callable[[], str], take_time: Callable[[], Awaitable[None]], ask: Ask) -> None:
        self._new_id = new_id
        self._take_time = take_time
        self._ask = ask

    async def __call__(self, call: bytes) -> bytes:
        asked = msgspec.json.decode(call, type=_Call)
        await self._take_time()
        try:
            result = getattr(self, f"_{asked.verb.replace('-', '_')}")(**asked.arguments)
            return msgspec.json.encode({"result": await result if isawaitable(result) else result})
        except ValueError as error:
            return msgspec.json.encode({"error": str(error)})

    def _make_authority(
        self, number: int, now_s: float, life_s: float, former: Mapping[str, Any] | None
    ) -> tuple[Authority, str]:
        key = self._new_id()
        made = self._paper(key, key, now_s, life_s, is_authority=True)
        cross = ""
        if former is not None:
            issuer = read_paper(former["certificate"])
            cross = str(msgspec.structs.replace(made, issuer=issuer.key, ends_s=issuer.ends_s))
        return Authority(number, str(made), _KEY + key), cross

    def _make_request(self, key: str) -> tuple[str, str]:
        key = key or _KEY + self._new_id()
        return key, _REQUEST + key.removeprefix(_KEY)

    def _sign(
        self,
        authority: Mapping[str, Any],
        request: str,
        uris: Sequence[str],
        names: Sequence[str],
        server: bool,
        now_s: float,
        life_s: float,
    ) -> str:
        if not request.startswith(_REQUEST):
            raise ValueError("no request for a certificate")
        issuer = read_paper(authority["certificate"]).key
        if authority["key"] != _KEY + issuer:
            raise ValueError("the key is not that of the authority")
        return str(self._paper(request.removeprefix(_REQUEST), issuer, now_s, life_s, uris=tuple(uris), serves=server))

    def _issue(self, key: str, **arguments: Any) -> tuple[str, str]:
        key, request = self._make_request(key)
        return key, self._sign(request=request, **arguments)

    def _inspect(self, certificate: str, authorities: Sequence[str], request: str) -> tuple[dict[str, Any], int]:
        found = read_paper(certificate)
        signers = [at for at, each in enumerate(authorities) if read_paper(each).key == found.issuer]
        if not signers:
            raise ValueError("the certificate is not of an authority that this cluster trusts now")
        if request and request != _REQUEST + found.key:
            raise ValueError("the request is not made with the key of the certificate")
        return found.describe(), signers[0]

    async def _renew(
        self,
        servers: Sequence[str],
        key: str,
        certificate: str,
        authorities: Sequence[str],
        own: tuple[str, str],
        revocations: Sequence[Mapping[str, Any]],
    ) -> Renewal:
        _, request = self._make_request(key)
        revoked = msgspec.convert(revocations, tuple[Revocation, ...])
        stranger, known = (
            SimulatedTls(authorities, lambda server: "it was removed" if is_revoked(server, revoked) else "")
            for _ in range(2)
        )
        known.show(Path(own[0]), Path(own[1]))
        body = msgspec.json.encode({"certificate": certificate, "csr": request})
        refusals = []
        for server in servers:
            for context in (known, stranger):
                try:
                    return await self._ask_one(server, "POST", "/fleet/v2/renew", body, context, Renewal)
                except ConnectionError as error:  # TLS may have refused the certificate
                    refusals.append(f"{server}: {error}")
                except (OSError, ValueError) as error:
                    refusals.append(f"{server}: {error}")
                    break
        raise ValueError("; ".join(refusals) or "no server is known")

    async def _fetch_keys(
        self, servers: Sequence[str], own: tuple[str, str], authorities: Sequence[str], wanted: str
    ) -> tuple[Authority, ...]:
        context = SimulatedTls(authorities)
        context.show(Path(own[0]), Path(own[1]))
        refusals = []
        for server in servers:
            try:
                found = await self._ask_one(server, "GET", "/fleet/v2/authority-keys", b"", context, KeysAnswer)
            except (OSError, ValueError) as error:
                refusals.append(f"{server}: {error}")
                continue
            if any(each.certificate == wanted for each in found.keys):
                return found.keys
            refusals.append(f"{server}: it does not have it")
        raise ValueError("; ".join(refusals) or "no other server serves https")

    async def _ask_one(
        self, server: str, method: str, path: str, body: bytes, context: SimulatedTls, kind: type[Any]
    ) -> Any:
        status, answer = await self._ask(server, method, path, body, context)
        if status != 200:
            raise ValueError(f"status {status}: {answer.decode()}")
        return msgspec.json.decode(answer, type=kind)

    def _paper(self, key: str, issuer: str, now_s: float, life_s: float, **said: Any) -> Paper:
        now_s, life_s = float(int(now_s)), float(int(life_s))
        return Paper(key, issuer, now_s - BACKDATED_S, now_s + life_s, self._new_id().replace("-", ""), **said)


def _print_time(unix_s: float) -> str:
    at = time.gmtime(unix_s)
    return f"{MONTHS[at.tm_mon - 1]} {at.tm_mday:2} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} {at.tm_year:04} GMT"
