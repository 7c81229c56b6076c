"""Tokens: a moment in the history of one store, from which a reader of events goes on. Opaque to clients. Pure."""

import hashlib
import re

import msgspec

OLDEST = "0"  # what a client says that wants all that is kept

_TOKEN = re.compile(r"([0-9a-f]{16})\.([0-9]{1,19})", re.ASCII)
_MOST = 2**63 - 1  # revisions are 64 bits wide


class InvalidToken(ValueError):
    """A string that is no token. The message says what is one."""


class OutdatedToken(ValueError):
    """A token of which nobody can say what followed it. The message says why, and what to do."""


class Token(msgspec.Struct, frozen=True, order=True):
    """Everything up to `revision` was seen, of the store whose epoch has this digest (digest_of)."""

    epoch: str
    revision: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.revision}"

    def check(self, now: "Token") -> None:
        """Raises OutdatedToken if the store, as it is `now`, has not had this moment in its history."""
        if self.epoch != now.epoch:
            raise OutdatedToken(f"the store was restored or replaced since token {self}: begin again without one")
        if self.revision > now.revision:
            raise OutdatedToken(f"token {self} is ahead of the store, which is at {now}: begin again without one")


def token_at(epoch_name: str, revision: int) -> Token:
    """The token for this revision in the epoch of this name (StoreEpoch.name)."""
    return Token(hashlib.sha256(epoch_name.encode()).hexdigest()[:16], revision)


def parse_token(text: str) -> Token:
    """The token that was printed like this. Raises InvalidToken."""
    found = _TOKEN.fullmatch(text)
    if found is None or int(found[2]) > _MOST:
        raise InvalidToken(
            f"{text[:80]!r} is no token: take one from the header Fleet-Token, or from an event, as it is"
        )
    return Token(found[1], int(found[2]))
