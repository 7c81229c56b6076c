"""The types of version 2 that are about locks; schema.py has them too, under the same names."""

import msgspec

WAITING, HELD, TIMEOUT, RELEASED = "waiting", "held", "timeout", "released"


class LockRequest(msgspec.Struct, frozen=True):
    """A lock is asked for. `ttl` is how long it is held without a renewal, in seconds, `slots` how many may hold it at
    once: all who ask for it have to say the same number. `wait` is how long to wait for it, in seconds: 0 does not
    wait, and null waits for ever. `holder` is what lists show."""

    ttl: float = 30.0
    slots: int = 1
    wait: float | None = None
    holder: str = ""


class LockAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the answer. `state` is `held`, which is the last line, `waiting`, or `timeout`: the lock was not to
    be had in time. `session` is what to renew and to release, `token` the fencing token, and `detail` says whom or what
    is waited for. `age`, of a renewal, is for how many seconds of its `ttl` the session has been renewed already."""

    state: str
    session: str = ""
    token: str = ""
    ttl: float = 0.0
    detail: str = ""
    age: float = 0.0


class LockSession(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody who holds a lock. `session` ends with the lease in hexadecimal; `since` is Unix time. `is_gone`: it has
    vanished without a release, so the lock is not given to another one before its `ttl` has passed. `is_foreign`: it
    is of another program than fleet (etcdctl lock), of which nothing more is known."""

    session: str
    by: str = ""
    holder: str = ""
    since: float = 0.0
    ttl: float = 0.0
    token: str = ""
    is_gone: bool = False
    is_foreign: bool = False


class Lock(msgspec.Struct, frozen=True):
    """A lock that somebody holds or waits for. `waiting` counts machines whose clients wait, and programs."""

    name: str
    slots: int
    holders: tuple[LockSession, ...]
    waiting: int


class Locks(msgspec.Struct, frozen=True):
    """The locks, by name."""

    locks: tuple[Lock, ...]


class LockEviction(msgspec.Struct, frozen=True):
    """Whom a lock was taken from, and after how many seconds at most another one may have it."""

    sessions: tuple[LockSession, ...]
    free_after: float
