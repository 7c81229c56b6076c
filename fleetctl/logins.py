"""Certificates for https that `fleetctl login` got, one for each cluster; connects to nothing.

Each is a folder below ~/.fleetctl/certificates, named like the fingerprint of the cluster's authority. It has
`certificate.pem` (with its key), `authorities.pem` (whom to trust), `revoked.json` (whom not to, all the same), and
`login.json`, which is written last.
"""

import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from fleetd.model.certificate import MACHINE, CertificateIdentity, fingerprint, split_pem
from fleetd.model.decoding import UNREADABLE
from fleetd.small_files import replace_file

if TYPE_CHECKING:
    import ssl

    from fleetd.api import schema

FOLDER = "~/.fleetctl/certificates"
_REVOKED = "revoked.json"
AHEAD_S = 86400.0  # certificates begin a day before they are made
FRESH_S = 600.0  # how long nobody is asked which servers were revoked


class Login(msgspec.Struct, frozen=True):
    """Whom a certificate names, until when it counts (a Unix time), and the https URLs of the cluster. `folder` is
    where it lies."""

    subject: str
    expires: float
    servers: tuple[str, ...]
    folder: str = ""

    def serves(self, host: str, port: int) -> bool:
        """True if a server of this cluster has this address."""
        return any(_place(url) == (host.lower(), port) for url in self.servers)

    def context(self) -> "ssl.SSLContext":
        """TLS with this certificate, to servers of its cluster alone that are not known to be revoked. Raises
        OSError."""
        from fleetd.trust.contexts import refuse_servers

        folder = Path(self.folder)
        context = fleet_context((folder / "authorities.pem").read_text(encoding="ascii", errors="replace"))
        context.load_cert_chain(folder / "certificate.pem", password="")  # never prompt for it
        refuse_servers(context, self._refuse)
        return context

    def revoked(self) -> dict[str, float]:
        """Machine → Unix time before which its certificates do not count, as servers have said."""
        try:
            return msgspec.json.decode((Path(self.folder) / _REVOKED).read_bytes(), type=dict[str, float])
        except (OSError, *UNREADABLE):
            return {}

    def is_fresh(self) -> bool:
        """True if servers have been asked lately which of them were revoked."""
        try:
            return abs(time.time() - (Path(self.folder) / _REVOKED).stat().st_mtime) < FRESH_S
        except OSError:
            return False

    def learn(self, revoked: Mapping[str, float]) -> None:
        """Keep in mind that these machines were revoked, and those that are known already: no server takes that back.
        Raises OSError.

        A removed server that is not known as such yet must not have the others refused for good: of what a server says
        of a later time than AHEAD_S from now, that much counts. TLS takes no certificate from further ahead."""
        known, latest_s = self.revoked(), time.time() + AHEAD_S
        revoked = {machine: min(before_s, latest_s) for machine, before_s in revoked.items()}
        merged = {each: max(known.get(each, 0.0), revoked.get(each, 0.0)) for each in sorted({*known, *revoked})}
        replace_file(Path(self.folder) / _REVOKED, msgspec.json.encode(merged))

    def _refuse(self, server: CertificateIdentity) -> str:
        if server.kind == MACHINE and server.issued_at_s < self.revoked().get(server.name, 0.0):
            return f"{server.subject} was removed from the cluster"
        return ""


def fleet_context(authorities: str) -> "ssl.SSLContext":
    """TLS to servers whose certificates are made by a cluster's authorities (PEM). Names are not checked: servers alone
    have certificates that may serve. Raises ssl.SSLError."""
    from fleetd.trust.contexts import client_context

    return client_context([authorities])


def find_logins(folder: str = FOLDER) -> list[Login]:
    """Every login, the last one first. What cannot be read is left out."""
    found: list[tuple[float, Login]] = []
    for path in Path(folder).expanduser().glob("*/login.json"):
        try:
            login = msgspec.json.decode(path.read_bytes(), type=Login)
            found.append((path.stat().st_mtime, msgspec.structs.replace(login, folder=str(path.parent))))
        except (OSError, *UNREADABLE):
            continue
    return [login for _, login in sorted(found, key=lambda each: each[0], reverse=True)]


def choose_login(logins: Iterable[Login], host: str, port: int) -> Login | None:
    """That of the cluster which has a server at this address."""
    return next((login for login in logins if login.serves(host, port)), None)


def keep_login(
    answer: "schema.Login", key: str, revoked: Mapping[str, float], folder: str = FOLDER
) -> tuple[Login, list[Login]]:
    """Keep a certificate and its key, instead of others of this cluster, and which machines were `revoked`. Returns the
    login, and those that it replaces of other authorities. Raises OSError, and ValueError if it has an address of
    another cluster whose login counts."""
    base = Path(folder).expanduser()
    signing = split_pem(answer.authorities)[-1:]
    own = base / "".join(map(fingerprint, signing))
    others = [
        other for other in find_logins(folder) if other.folder != str(own) and set(other.servers) & set(answer.servers)
    ]
    same = [each for each in others if set(_authorities_of(each)) & set(split_pem(answer.authorities))]
    for other in others:
        if other.expires > time.time() and other not in same:
            shared = min(set(other.servers) & set(answer.servers))
            raise ValueError(
                f"the cluster says that {shared} is one of its servers, which is one of another cluster, where you are "
                f"{other.subject} until {local_time(other.expires)}: if that cluster was made anew, remove "
                f"{other.folder} and log in again; if not, do not trust this one"
            )
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    own.mkdir(mode=0o700, exist_ok=True)
    login = Login(answer.subject, answer.expires, answer.servers, str(own))
    replace_file(own / "certificate.pem", answer.certificate + key)
    replace_file(own / "authorities.pem", answer.authorities)
    for known in (*(each.revoked() for each in same), revoked):
        login.learn(known)
    replace_file(own / "login.json", msgspec.json.encode(msgspec.structs.replace(login, folder="")))
    for other in others:
        shutil.rmtree(other.folder, ignore_errors=True)  # of an authority that has been replaced
    return login, others


def _authorities_of(login: Login) -> tuple[str, ...]:
    try:
        return split_pem((Path(login.folder) / "authorities.pem").read_text(encoding="ascii", errors="replace"))
    except OSError:
        return ()


def local_time(at: float) -> str:
    """A Unix time in this machine's zone."""
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(at))


def _place(url: str) -> tuple[str, int]:
    try:
        parsed = urlsplit(url)
        return (parsed.hostname or "").lower(), parsed.port or 443
    except ValueError:
        return "", 0
