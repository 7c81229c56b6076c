"""Certificates of a cluster: whom each names, what it lets them do, and which do not count any more. Pure.

All of it stands in URIs of the subjectAltName, which the standard library's TLS shows of a peer's certificate once it
has checked who signed it.
"""

import base64
import calendar
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from fleetd.model.decoding import FORMAT
from fleetd.model.permission import NO_RIGHTS, Rights, parse_rights

MACHINE, PERSON, SERVICE = KINDS = ("machine", "person", "service")
SERVER, WORKER = ROLES = ("server", "worker")

DAY_S = 86400.0
BACKDATED_S = DAY_S  # a certificate is valid since so long before it was made: clocks may differ
AUTHORITY_LIFE_S = 3650 * DAY_S
MACHINE_LIFE_S = 30 * DAY_S
PERSON_LIFE_S = DAY_S / 2
SERVICE_LIFE_S = 90 * DAY_S  # the longest
RENEWED_AFTER = 2 / 3  # of the life
CLOCKS_DIFFER_S = 3600.0  # revocations and the end of join tokens hold if those of servers differ by no more

MAX_NAME = 64  # characters
_SCHEME = "fleet://"
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([^-]+)-----END CERTIFICATE-----\n?")
_TIME = re.compile(r"([A-Z][a-z]{2}) +(\d{1,2}) (\d{2}):(\d{2}):(\d{2}) (\d{4}) GMT", re.ASCII)


class CertificateIdentity(msgspec.Struct, frozen=True):
    """Whom a certificate names. `kind` is one of KINDS; `name` a machine's id or the name of a person or service.
    `role` is one of ROLES for a machine, else ''; `rights` are what a person or a service may do. Times are Unix times;
    `issued_at_s` is when it was made, from when revocations count. `serial` is its number, in hexadecimal digits."""

    kind: str
    name: str
    role: str = ""
    rights: Rights = NO_RIGHTS
    issued_at_s: float = 0.0
    expires_at_s: float = 0.0
    serial: str = ""

    @property
    def subject(self) -> str:
        """`machine/<id>`, `person/<name>` or `service/<name>`."""
        return f"{self.kind}/{self.name}"

    @property
    def renew_at_s(self) -> float:
        """The Unix time from which a new one is to be had."""
        return self.issued_at_s + (self.expires_at_s - self.issued_at_s) * RENEWED_AFTER


class Authority(msgspec.Struct, frozen=True):
    """An authority that can sign: its number, its certificate and its private key, both as PEM."""

    number: int
    certificate: str
    key: str

    def __repr__(self) -> str:
        return f"<Authority {self.number}>"  # never with its key


class TrustedAuthority(msgspec.Struct, frozen=True, tag_field="format", tag=FORMAT):
    """The public part of an authority of the cluster. Stored under `trust/authorities/<number>`. `certificate` is PEM,
    and so is `cross`: its certificate as the authority before it has signed it, '' where that has not. `by` is who had
    it made and `at_s` when, as a Unix time."""

    number: int
    certificate: str
    cross: str = ""
    by: str = ""
    at_s: float = 0.0


class Revocation(msgspec.Struct, frozen=True, tag_field="format", tag=FORMAT):
    """Certificates of `subject` that were made before `before_s` do not count any more. Stored under
    `trust/revocations/<number>`. `by` is who revoked them and `at_s` when, as a Unix time."""

    number: int
    subject: str
    before_s: float
    by: str = ""
    at_s: float = 0.0


def split_pem(text: str) -> tuple[str, ...]:
    """The certificates in a PEM file, each as a text of its own."""
    return tuple(found[0].rstrip("\n") + "\n" for found in _PEM.finditer(text))


def fingerprint(certificate: str) -> str:
    """The SHA-256 of a certificate (PEM) as DER, in hexadecimal digits. Raises ValueError."""
    found = _PEM.fullmatch(certificate)
    if not found:
        raise ValueError("this is not one certificate in PEM")
    return hashlib.sha256(base64.b64decode(found[1])).hexdigest()


def refuse_name(name: str) -> str:
    """Why a certificate can name no person, service or machine like this; '' if it can."""
    if not name or len(name) > MAX_NAME or not name.isprintable() or "/" in name or name != name.strip():
        return f"{name!r} is no name for a certificate: it has 1 to {MAX_NAME} printable characters, and no /"
    return ""


def uris(identity: CertificateIdentity) -> tuple[str, ...]:
    """What the certificate of this identity says, without its times. Raises ValueError."""
    if refusal := refuse_name(identity.name):
        raise ValueError(refusal)
    parts = [(identity.kind, identity.name)]
    if identity.kind == MACHINE:
        parts.append(("role", identity.role))
    parts += [("grant", str(grant)) for grant in identity.rights.grants]
    found = tuple(f"{_SCHEME}{word}/{_quote(value)}" for word, value in parts)
    if _parse_uris(found) != (identity.kind, identity.name, identity.role, identity.rights):
        raise ValueError(f"{identity.subject} with the role {identity.role!r} and {identity.rights} is no identity")
    return found


def parse_peer_certificate(certificate: Mapping[str, Any]) -> CertificateIdentity:
    """Whom a certificate names, from what `ssl.SSLSocket.getpeercert()` says of it. Raises ValueError."""
    names = certificate.get("subjectAltName", ())
    kind, name, role, rights = _parse_uris([value for of, value in names if of == "URI"])
    return CertificateIdentity(
        kind,
        name,
        role,
        rights,
        issued_at_s=_parse_time(certificate.get("notBefore", "")) + BACKDATED_S,
        expires_at_s=_parse_time(certificate.get("notAfter", "")),
        serial=str(certificate.get("serialNumber", "")).lower(),
    )


def is_revoked(identity: CertificateIdentity, revocations: Iterable[Revocation]) -> bool:
    """True if one of the revocations is about this certificate."""
    return any(each.subject == identity.subject and identity.issued_at_s < each.before_s for each in revocations)


def revoke(number: int, subject: str, by: str, now_s: float, former: Iterable[Revocation] = ()) -> Revocation:
    """The revocation of every certificate of the subject that a server can have made by now, whatever its clock: also
    of those made since the `former` revocations, which count as made after them (issue_time)."""
    after_former = [each.before_s + 2 for each in former if each.subject == subject]  # issue_time, and more
    return Revocation(number, subject, max([now_s + CLOCKS_DIFFER_S, *after_former]), by, now_s)


def issue_time(subject: str, revocations: Iterable[Revocation], now_s: float) -> float:
    """The time to make a certificate of the subject with: a revocation of former ones, which reaches into the future,
    is not about it."""
    return max([now_s, *(each.before_s + 1 for each in revocations if each.subject == subject)])


def latest_revocations(revocations: Iterable[Revocation], kind: str, now_s: float, life_s: float) -> dict[str, float]:
    """Name → Unix time before which certificates of this machine, person or service (the `kind`) do not count; without
    those that have all expired, because they live for `life_s`."""
    found: dict[str, float] = {}
    for each in revocations:
        of, _, name = each.subject.partition("/")
        if of == kind and each.before_s + life_s > now_s:
            found[name] = max(each.before_s, found.get(name, 0.0))
    return found


def _parse_uris(found: Iterable[str]) -> tuple[str, str, str, Rights]:
    """Kind, name, role and rights. What is not known is refused: it might be there to restrict. Raises ValueError."""
    said: dict[str, list[str]] = {}
    for uri in found:
        word, slash, value = uri.removeprefix(_SCHEME).partition("/")
        if not uri.startswith(_SCHEME) or not slash or word not in (*KINDS, "role", "grant"):
            raise ValueError(f"a certificate of fleet does not say {uri!r}; is fleet here older than what made it?")
        said.setdefault(word, []).append(_unquote(value))
    grants, roles = said.pop("grant", []), said.pop("role", [])
    subjects = [(kind, name) for kind, names in said.items() for name in names]
    if len(subjects) != 1:
        raise ValueError(f"the certificate names {len(subjects)} machines, people or services instead of one")
    ((kind, name),) = subjects
    if refusal := refuse_name(name):
        raise ValueError(refusal)
    if kind == MACHINE:
        if len(roles) != 1 or roles[0] not in ROLES or grants:
            raise ValueError(f"the certificate of machine {name} says no role, or more than one")
        return kind, name, roles[0], NO_RIGHTS
    if roles:
        raise ValueError(f"the certificate of {kind} {name} says the role of a machine")
    rights = [parse_rights(grant) for grant in grants]
    if any(len(each.grants) != 1 for each in rights):
        raise ValueError(f"the certificate of {kind} {name} has an invalid grant")
    return kind, name, "", Rights(grant for each in rights for grant in each.grants)


def _quote(text: str) -> str:
    return "".join(chr(byte) if chr(byte) in _UNRESERVED else f"%{byte:02X}" for byte in text.encode())


def _unquote(text: str) -> str:
    """Raises ValueError for what _quote has not made."""
    found = re.sub("%([0-9A-F]{2})", lambda match: chr(int(match[1], 16)), text).encode("latin-1").decode()
    if _quote(found) != text:
        raise ValueError(f"{text!r} is not percent-encoded as in certificates of fleet")
    return found


def _parse_time(text: str) -> float:
    """A time as OpenSSL prints it, `Nov 26 15:04:05 2026 GMT`. Raises ValueError."""
    found = _TIME.fullmatch(text)
    if not found or found[1] not in MONTHS:
        raise ValueError(f"{text!r} is not the time of a certificate")
    day, hour, minute, second, year = (int(found[at]) for at in range(2, 7))
    return float(calendar.timegm((year, MONTHS.index(found[1]) + 1, day, hour, minute, second)))
