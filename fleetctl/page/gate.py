"""Who may pass to the API, with the rights of the person who has run fleetctl ui. No input or output.

One browser may: that which brings the token first. It gets a cookie, which other sites cannot use (SameSite, Origin,
Sec-Fetch-Site), nor names that lead here from elsewhere (Host).
"""

import hmac
import threading
from collections.abc import Callable, Sequence

import msgspec

LOOPBACK = "127.0.0.1"
_OWN_SITE = ("same-origin", "none")  # `none`: entered in the address bar
_SAFE = ("GET",)
_STRANGER = "this page is for the person who has run fleetctl ui: open the address that it has printed"
_SPENT = "this address has been used, and is good for one browser: run fleetctl ui again, which prints another"


class Asked(msgspec.Struct, frozen=True):
    """What the gate looks at of a request: its method, and the values of these headers."""

    method: str
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    sites: Sequence[str] = ()
    cookies: Sequence[str] = ()


class Gate:
    """The gate of the page on this port of this machine. `new_secret` returns a word that nobody can guess."""

    def __init__(self, port: int, new_secret: Callable[[], str]) -> None:
        self.port = port
        self.token = new_secret()
        self._cookie = new_secret()
        self._name = f"fleet-ui-{port}"  # a browser sends the cookies of all ports of a machine to each of them
        self._is_spent = False
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """What the browser has to open first."""
        return f"http://{LOOPBACK}:{self.port}/?token={self.token}"

    @property
    def new_cookie(self) -> str:
        """The header that gives the browser its cookie."""
        return f"{self._name}={self._cookie}; HttpOnly; SameSite=Strict; Path=/"

    def refuse_host(self, asked: Asked) -> str:
        """Why a request by this name of the machine is refused, '' if it is not."""
        own = [f"{LOOPBACK}:{self.port}", f"localhost:{self.port}"]
        if len(asked.hosts) == 1 and asked.hosts[0].lower() in own:
            return ""
        return f"this page is at http://{own[0]}/ alone: with ssh -L, give both ends the port {self.port}"

    def refuse_token(self, token: str) -> str:
        """Why this token lets nobody pass, '' if it does: it counts once."""
        if not _is_same(token, self.token):
            return _STRANGER
        with self._lock:
            was_spent, self._is_spent = self._is_spent, True
        return _SPENT if was_spent else ""

    def refuse(self, asked: Asked) -> str:
        """Why a request may not pass, '' if it may."""
        if why := self.refuse_host(asked):
            return why
        own = f"http://{asked.hosts[0].lower()}"
        if any(origin.lower() != own for origin in asked.origins):
            return "requests of other sites are refused"
        if any(site.lower() not in _OWN_SITE for site in asked.sites):
            return "requests of other sites are refused"
        if asked.method not in _SAFE and not asked.origins:
            return "only the page changes something here: use fleetctl, or the API"
        pairs = [pair.strip().partition("=") for header in asked.cookies for pair in header.split(";")]
        if not any(name == self._name and _is_same(value, self._cookie) for name, _, value in pairs):
            return _STRANGER
        return ""


def _is_same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(errors="replace"), other.encode())
