"""`fleetd join`: makes this machine a worker of a cluster, with a join token.

Nothing is sent to the server but the question which authorities its cluster trusts, until the one whose fingerprint the
token has is among them, and has signed the certificate that the server shows. All files are written beside those that
they replace, and put in their places once the machine has its certificate; if anything fails, they are taken away.
"""

import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from fleetd import __version__
from fleetd.api import schema
from fleetd.config.config import Config, ConfigError, load_config, parse_config
from fleetd.config.file_edit import option_names, set_options
from fleetd.model.certificate import WORKER, fingerprint, split_pem
from fleetd.model.decoding import UNREADABLE
from fleetd.model.join_token import TokenText, parse_token
from fleetd.process.identity import IdentityError
from fleetd.small_files import sync_folder
from fleetd.trust.contexts import CLOCK_ERRORS, client_context
from fleetd.trust.files import TrustFiles

DEFAULT_PORT = 7443
TIMEOUT_S = 30.0  # for an answer; a server makes a certificate in a second, if it is not busy
ATTEMPTS = 4
PAUSE_S = 2.0  # between them
MAX_ANSWER = 1024 * 1024  # bytes
_AUTHORITIES, _JOIN, _RENEW = (f"{schema.V2}/{name}" for name in ("authorities", "join", "renew"))

T = TypeVar("T")


class JoinFailed(Exception):
    """The machine was not made a worker, and is as it was. The message says why, and what to do."""


class _NoAnswer(JoinFailed):
    """The server did not answer, or could not now: it may help to ask again."""


class _Refusal(JoinFailed):
    """The server refused. The message has its words."""


class Host(msgspec.Struct, frozen=True):
    """This machine, as `join` sees and changes it. `state` is the directory /var/lib/fleet. `machine` returns its id
    (or raises IdentityError), `address` its address and `host_keys` those of its SSH server, as a server would publish
    them. `make_request` returns a private key (the one given, or for '' a new one) and a request for a certificate of
    it. `serves` is whether a fleetd here is a member of a cluster now; `restart` starts it with its new configuration,
    and returns what went wrong, '' if nothing did; `say` prints a line for people."""

    config_path: Path
    state: Path
    environ: Mapping[str, str]
    machine: Callable[[], str]
    address: Callable[[], str]
    host_keys: Callable[[], tuple[str, ...]]
    make_request: Callable[[str], tuple[str, str]]
    serves: Callable[[Config], bool]
    restart: Callable[[], str]
    say: Callable[[str], None]
    sleep: Callable[[float], None] = time.sleep


def join(url: str, token: str, host: Host) -> None:
    """Make this machine a worker of the cluster of the server at this URL. One that is one already is recorded anew if
    the token is for it, and else gets another certificate alone. Raises JoinFailed."""
    try:
        pinned = parse_token(token)
        server = _Server(url)
        machine = host.machine()
        config, text = _read_config(host)
        files = TrustFiles(host.state / "trust")
        _check_state(config, text, files, host)
    except (ValueError, IdentityError, ConfigError) as error:
        raise JoinFailed(str(error)) from error
    trusted = server.find_authorities(pinned)
    server.trust(trusted[0])
    if config.role == WORKER:
        _check_cluster(files, trusted)
    new_text = _new_config(host, text, (server.url,))
    key, request = host.make_request("")
    asked = schema.JoinRequest(
        pinned.secret, request, machine, config.public_ip or host.address(), config.metadata, host.host_keys()
    )
    told = f"this machine is a worker of the cluster of {server.url} now"
    with _staged(host, files) as stage:
        stage.put(files.key, key, 0o600)
        stage.put(host.config_path, new_text)  # shows whether there is room, before the token is used
        answer: schema.JoinAnswer | schema.Renewal
        try:
            answer = _insist(lambda: server.ask("POST", _JOIN, asked, schema.JoinAnswer), host.sleep)
        except _Refusal as refusal:
            if config.role != WORKER or (renewed := _renew(server, files, host)) is None:
                raise
            answer = renewed
            stage.put(files.key, files.read_key(), 0o600)
            told = f"this machine is a worker of that cluster already, and its certificate is renewed; {refusal}"
        stage.put_certificate(files, answer.certificate, answer.authorities)
        servers = dict.fromkeys((server.url, *answer.servers))
        stage.put(host.config_path, _new_config(host, text, tuple(servers)))
    host.say(told)
    if trouble := host.restart():
        raise JoinFailed(f"the machine has its certificate, but fleet.service does not run: {trouble}")


def _read_config(host: Host) -> tuple[Config, str]:
    """What the configuration says now, and the text of the file. Raises ConfigError."""
    config, _ = load_config(str(host.config_path) if host.config_path.exists() else None, host.environ, {})
    with suppress(FileNotFoundError):
        return config, host.config_path.read_text(encoding="utf-8")
    return config, ""


def _new_config(host: Host, text: str, servers: Sequence[str]) -> str:
    """The text of fleet.conf for a worker of these servers. Raises JoinFailed if something in it contradicts that."""
    new = set_options(text, {"role": WORKER, "servers": ",".join(servers)})
    try:
        parse_config(new, str(host.config_path), host.environ, {})
    except ConfigError as error:
        raise JoinFailed(f"this machine is configured to be something else than a worker: {error}") from error
    return new


def _check_state(config: Config, text: str, files: TrustFiles, host: Host) -> None:
    """Raises ValueError where this machine belongs to a cluster in another way."""
    if config.role == WORKER:
        return
    place, leave = host.config_path, "to have it join another one, run `fleetd leave`"
    if config.standalone:
        raise ValueError(f"standalone=true: this machine is a cluster of its own; {leave}, and remove it from {place}")
    if "etcd_servers" in option_names(text):
        raise ValueError(f"etcd_servers= in {place}: this machine is a server of a cluster; {leave}, and remove that")
    if files.read_keys():
        raise ValueError(f"{files.directory} has the key of an authority: this machine is a server of a cluster")
    if host.serves(config):
        raise ValueError(f"fleetd runs here, and is a member of a cluster; {leave}")


class _Server:
    """The server that is asked. Until `trust`, what it says is believed of nobody."""

    def __init__(self, text: str) -> None:
        """Raises ValueError for what is no URL of a server."""
        host, port = _parse_url(text)
        self._place = host, port
        self.url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    def find_authorities(self, pinned: TokenText) -> tuple[str, ...]:
        """The certificates of the authorities that the cluster trusts, the one that a token is for first. Raises
        JoinFailed if that is not among them."""
        trusted = split_pem(self.ask("GET", _AUTHORITIES, None, schema.Authorities).authorities)
        for certificate in trusted:
            with suppress(ValueError):
                if fingerprint(certificate) == pinned.authority:
                    return certificate, *trusted
        raise JoinFailed(
            f"the server at {self.url} is not of the cluster that the token is for, whose authority it does not have: "
            "check the address, and have another token made (fleetctl machine token) if the authority was replaced. "
            "(The secret of the token was not sent.)"
        )

    def trust(self, authority: str) -> None:
        """Believe from now on only a server whose certificate this authority has signed."""
        self._context = client_context([authority])

    def ask(self, method: str, path: str, body: msgspec.Struct | None, kind: type[T]) -> T:
        """The answer to one request. Raises JoinFailed."""
        connection = HTTPSConnection(*self._place, timeout=TIMEOUT_S, context=self._context)
        headers = {"User-Agent": f"fleetd/{__version__}", "Content-Type": schema.JSON_TYPE}
        try:
            connection.request(method, path, msgspec.json.encode(body) if body else None, headers)
            response = connection.getresponse()
            content = response.read(MAX_ANSWER)
        except ssl.SSLCertVerificationError as error:
            why = "the authority that the token is for has not signed it: another server answers there"
            if error.verify_code in CLOCK_ERRORS:
                why = f"is the clock of this machine right ({time.strftime('%Y-%m-%d %H:%M')})?"
            raise JoinFailed(
                f"the certificate of the server at {self.url} does not count ({error.verify_message}): {why} (The "
                "secret of the token was not sent.)"
            ) from error
        except (OSError, HTTPException) as error:
            cause = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
            raise _NoAnswer(
                f"cannot reach a server of fleet at {self.url}: {cause.lower()}; does it listen there (listen=https://"
                f":{self._place[1]} in its fleet.conf), and does a firewall let it through?"
            ) from error
        finally:
            connection.close()
        return self._decode(response.status, content, kind)

    def _decode(self, status: int, content: bytes, kind: type[T]) -> T:
        try:
            if status == 200:
                return msgspec.json.decode(content, type=kind)
            message = msgspec.json.decode(content, type=schema.ErrorEntity).error.message
        except UNREADABLE as error:
            raise JoinFailed(f"the server at {self.url} is not fleet's (status {status}): check the address") from error
        words = f"the server at {self.url} refused: {''.join(filter(str.isprintable, message))}"
        raise _NoAnswer(words) if status >= 500 else _Refusal(words)


def _parse_url(text: str) -> tuple[str, int]:
    """Host and port. Raises ValueError."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port or DEFAULT_PORT
    except ValueError as error:
        raise ValueError(f"{text!r} is no URL: {error}") from error
    if parts.scheme != "https" or not host or parts.path not in ("", "/") or parts.query or "@" in parts.netloc:
        raise ValueError(f"{text!r} is not the URL of a server: write https://HOST:{DEFAULT_PORT}")
    return host, port


def _insist(ask: Callable[[], T], sleep: Callable[[float], None]) -> T:
    """The answer to a request that may be repeated: the same machine with the same request is not refused. Raises
    JoinFailed."""
    for _ in range(ATTEMPTS - 1):
        try:
            return ask()
        except _NoAnswer:
            sleep(PAUSE_S)
    return ask()


def _check_cluster(files: TrustFiles, trusted: Sequence[str]) -> None:
    """Raises JoinFailed if this machine, a worker, has a certificate of another cluster than the one that trusts these
    authorities."""
    own = files.read_authorities()
    if own and not set(own) & set(trusted):
        raise JoinFailed(
            "this machine is a worker of another cluster: run `fleetd leave`, remove role= and servers= from its "
            f"fleet.conf, and {files.directory}"
        )


def _renew(server: _Server, files: TrustFiles, host: Host) -> schema.Renewal | None:
    """Another certificate for the key of this machine, which is a worker; None if it has none, or if the cluster has
    removed it. Raises JoinFailed."""
    key, certificate = files.read_key(), files.read_certificate()
    if not key or not certificate:
        return None
    _, request = host.make_request(key)
    try:
        return server.ask("POST", _RENEW, schema.RenewalRequest(certificate, request), schema.Renewal)
    except _Refusal:
        return None


class _Stage:
    """Files that are written beside those that they are to replace."""

    def __init__(self) -> None:
        self._new: dict[Path, Path] = {}

    def put(self, path: Path, text: str, mode: int | None = None) -> None:
        """Write what is to stand at this path, with the mode of what is there (None), 0644 if there is nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = self._new.pop(path, path.with_name(f".{path.name}.join"))
        self._new[path] = new  # the last one
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            former = path.stat() if path.exists() else None
            if former and mode is None:
                os.fchown(file.fileno(), former.st_uid, former.st_gid)
            os.fchmod(file.fileno(), mode if mode is not None else former.st_mode & 0o7777 if former else 0o644)
            os.fsync(file.fileno())

    def put_certificate(self, files: TrustFiles, certificate: str, authorities: str) -> None:
        """Write the certificate of the key on this stage. Raises JoinFailed if it is of another."""
        self.put(files.certificate, certificate, 0o600)
        self.put(files.authorities, "".join(split_pem(authorities)), 0o600)
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_cert_chain(self._new[files.certificate], self._new[files.key])
            context.load_verify_locations(self._new[files.authorities])
        except OSError as error:
            raise JoinFailed(f"the server has sent no certificate for the key of this machine: {error}") from error

    def commit(self) -> None:
        """Put all of them in their places; if one cannot be, those before it are as they were."""
        done: list[Path] = []
        try:
            for path, new in self._new.items():
                _former(path).unlink(missing_ok=True)
                if path.exists():
                    os.link(path, _former(path))
                new.replace(path)
                done.append(path)
            for folder in {path.parent for path in done}:
                sync_folder(folder)
        except OSError:
            for path in done:
                path.unlink()
                with suppress(FileNotFoundError):
                    _former(path).replace(path)
            raise

    def discard(self) -> None:
        """Take away what is not in its place, and what was before."""
        for path, new in self._new.items():
            for file in (new, _former(path)):
                with suppress(OSError):
                    file.unlink(missing_ok=True)


def _former(path: Path) -> Path:
    """Where a file is kept until all of those that are replaced with it are."""
    return path.with_name(f".{path.name}.former")


@contextmanager
def _staged(host: Host, files: TrustFiles) -> Iterator[_Stage]:
    """A stage whose files are put in their places at the end, and taken away if anything fails. Raises JoinFailed."""
    stage = _Stage()
    made = [path for path in (files.directory, host.state) if not path.exists()]
    try:
        files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield stage
        stage.commit()
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise JoinFailed(f"cannot write {place}{error.strerror}") from error
    finally:
        stage.discard()
        for path in made:
            with suppress(OSError):
                path.rmdir()  # where it is empty
