"""Join tokens: with one, a machine gets its first certificate, that of a worker. Pure.

A token is for one machine and for an hour. Its text has the fingerprint of the cluster's authority, by which the
machine knows the server, and a secret, by which the server knows the machine. The store has the hash of the secret
alone.
"""

import base64
import hashlib
import re
from collections.abc import Mapping

import msgspec

from fleetd.model.certificate import CLOCKS_DIFFER_S
from fleetd.model.decoding import FORMAT
from fleetd.model.machine import is_address

LIFE_S = 3600.0
KEPT_S = 23 * 3600.0  # after that hour, so that a machine that comes late is told that
SECRET_BYTES = 20
MAX_REQUEST = 8192  # characters of a request for a certificate
MAX_METADATA = 64  # entries
MAX_METADATA_CHARACTERS = 8192
_PREFIX = "fleet1-"
_LENGTH = len(_PREFIX) + 64 + 1 + 32
_TEXT = re.compile(rf"{_PREFIX}([0-9a-f]{{64}})-([a-z2-7]{{32}})", re.ASCII)
_LATER = re.compile(r"fleet[0-9]+-", re.ASCII)
_MACHINE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
ANOTHER = "have another made: fleetctl machine token"


class JoinToken(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """A token that was made. Stored under `trust/tokens/<hash of the secret>`, on a lease that ends KEPT_S after the
    token does.

    `authority` is the fingerprint of the authority that it is for, `history` the restores of the store by then. `by` is
    who made it and `made_at_s` when, `expires_at_s` until when it can be used (Unix times). `machine` is the id of the
    only machine that may use it, '' for any new one. `used_by` is the machine that has used it, '' if none has, and
    `request` the hash of its request for a certificate.
    """

    authority: str
    made_at_s: float
    expires_at_s: float
    by: str = ""
    machine: str = ""
    history: str = ""
    used_by: str = ""
    request: str = ""


class TokenText(msgspec.Struct, frozen=True):
    """What the text of a token says."""

    authority: str
    secret: str

    def __str__(self) -> str:
        return f"{_PREFIX}{self.authority}-{self.secret}"


class Claim(msgspec.Struct, frozen=True):
    """A machine that comes with a token: its id, the hash of its request for a certificate, and whether the cluster
    knows a machine of this id."""

    machine: str
    request: str
    is_known: bool


def make_secret(random: bytes) -> str:
    """The text of a secret of SECRET_BYTES random bytes."""
    return base64.b32encode(random).decode().lower()


def hash_text(text: str) -> str:
    """The SHA-256 of a secret or of a request, in hexadecimal digits."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def parse_token(text: str) -> TokenText:
    """Take the text of a token apart. Raises ValueError; the text, which is a secret, is not quoted."""
    if found := _TEXT.fullmatch(text):
        return TokenText(found[1], found[2])
    if not text.startswith(_PREFIX):
        if _LATER.match(text):
            raise ValueError("the token is of a later version of fleet: update fleetd on this machine")
        raise ValueError(f"this is no join token, which begins with {_PREFIX}: fleetctl machine token makes one")
    if len(text) < _LENGTH:
        raise ValueError(f"the token is cut short: it has {len(text)} of {_LENGTH} characters")
    if len(text) > _LENGTH:
        raise ValueError(f"the token is followed by something else: it has {_LENGTH} characters, and this {len(text)}")
    raise ValueError("a character of the token is wrong: copy it again")


def refuse_use(token: JoinToken | None, claim: Claim, *, left_s: float, history: str, now_s: float) -> str:
    """Why the machine may not use the token now (None: the store has none of this secret); '' if it may.

    `left_s` is what the token's lease has left (s), `history` are the restores of the store, `now_s` the wall clock.
    The store's clock decides; but leases begin anew when another member of etcd leads, and so the wall clock does, too,
    as far as those of servers agree.
    """
    if token is None:
        return f"there is no such token: it was mistyped, is more than a day old, or is of another cluster; {ANOTHER}"
    is_late = left_s <= KEPT_S or now_s > token.expires_at_s + CLOCKS_DIFFER_S
    if token.used_by:
        if (token.used_by, token.request) == (claim.machine, claim.request) and claim.is_known and not is_late:
            return ""  # the answer was lost, and it asks again
        return f"machine {token.used_by} has used this token, and a token can be used once; {ANOTHER}"
    if is_late:
        return f"the token has expired: it could be used for an hour; {ANOTHER}"
    if token.history != history:
        return f"the store was restored since the token was made, and it may have been used before; {ANOTHER}"
    if token.machine not in ("", claim.machine):
        return f"the token is for machine {token.machine} alone, and this is {claim.machine}; {ANOTHER}"
    if claim.is_known and not token.machine:
        return (
            f"the cluster knows a machine {claim.machine} already: if this is another one that has its id (a copy of a "
            "disk?), give this one an id of its own; if it is the same one, have a token made for it alone: fleetctl "
            f"machine token --machine-id={claim.machine}"
        )
    return ""


def refuse_machine_id(text: str) -> str:
    """Why this is not the id of a machine; '' if it is."""
    return "" if _MACHINE_ID.fullmatch(text) else f"{text[:64]!r} is no machine id, which has 32 hexadecimal digits"


def refuse_newcomer(address: str, metadata: Mapping[str, str]) -> str:
    """Why a machine cannot join that says this of itself; '' if it can."""
    if address and not is_address(address):
        return f"{address[:64]!r} is neither an IP address nor a host name"
    size = sum(len(key) + len(value) for key, value in metadata.items())
    if len(metadata) > MAX_METADATA or size > MAX_METADATA_CHARACTERS:
        return (
            f"the machine has {len(metadata)} entries of metadata with {size} characters, and at most {MAX_METADATA} "
            f"with {MAX_METADATA_CHARACTERS} are taken"
        )
    return ""
