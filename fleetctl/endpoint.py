"""Parses and validates --endpoint and the TLS files, and makes what connects to it."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from fleetctl import output
from fleetctl.errors import CommandFailed, SshFailed, cause_of
from fleetctl.settings import DEFAULT_ENDPOINT, Settings

if TYPE_CHECKING:  # HTTP, TLS and SSH are slow to import, and --help does not need them
    import ssl

    from fleetctl.http_transport import HttpTransport
    from fleetctl.logins import Login
    from fleetctl.ssh.connection import Connection
    from fleetctl.ssh.tunnel import TunnelTransport
    from fleetd.model.user_instance import UserPaths

TlsContext = Callable[[], "ssl.SSLContext"]

_FORMS = "use unix:///PATH, http://HOST:PORT or https://HOST:PORT"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An address of the API, `text` as it was given: a unix socket's path, or a TCP host and port.

    `login` is USER:PASSWORD or '', `path` what precedes /fleet/v1. `is_users`: it is that of the user's own fleetd.
    """

    text: str
    socket: str = ""
    host: str = "domain-sock"
    port: int = 80
    tls: bool = False
    login: str = ""
    path: str = ""
    is_users: bool = False


def own_paths() -> "UserPaths":
    """Where the fleetd of the user who runs this has its files."""
    from fleetd.model.user_instance import find_user_paths  # late: rarely needed

    return find_user_paths(os.environ, os.getuid(), os.path.expanduser("~"))


def parse_endpoint(text: str) -> Endpoint:
    """The endpoint. Raises CommandFailed, in the words of CoreOS fleet where that refused it, too."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        _refuse(f'endpoint "{text}": {error}; {_FORMS}')
    if not url.scheme or (url.scheme not in ("unix", "file", "http", "https") and "://" not in text):
        _refuse(f'URL scheme undefined in endpoint "{text}": {_FORMS}')
    if url.scheme in ("unix", "file"):
        return _unix_endpoint(text, url)
    if url.scheme not in ("http", "https"):
        _refuse(f'unsupported URL scheme "{url.scheme}" in endpoint "{text}": {_FORMS}')
    if not url.hostname or port == 0:
        _refuse(f'endpoint "{text}" names no host: {_FORMS}')
    return Endpoint(
        text=text,
        host=url.hostname,
        port=port or (443 if url.scheme == "https" else 80),
        tls=url.scheme == "https",
        login="" if url.username is None else f"{unquote(url.username)}:{unquote(url.password or '')}",
        path=url.path.rstrip("/"),
    )


def _unix_endpoint(text: str, url: SplitResult) -> Endpoint:
    if url.netloc:
        _refuse(
            f'unable to connect to host "{url.netloc}" with scheme "{url.scheme}": '
            f"a socket needs three slashes, {url.scheme}:///{url.netloc}{url.path}"
        )
    if url.path in ("", "/"):
        _refuse(f'endpoint "{text}" names no socket: {_FORMS}')
    return Endpoint(text=text, socket=url.path)


def choose_endpoint(settings: Settings) -> Endpoint:
    """The endpoint in the settings. Raises CommandFailed."""
    if settings.driver not in ("API", "etcd"):
        _refuse(f'unrecognized driver "{settings.driver}": API is the only one')
    if settings.driver == "etcd" and settings.endpoint != DEFAULT_ENDPOINT:
        # The endpoint is etcd's. Falling back to the default socket could change another cluster.
        _refuse(
            f"driver etcd is not supported, and {settings.endpoint} seems to be etcd's: omit --driver, and give the "
            "address of fleetd's API with --endpoint"
        )
    _warn_of_ignored_options(settings)
    if settings.user and settings.endpoint == DEFAULT_ENDPOINT:
        if settings.tunnel:
            _refuse("--user with --tunnel needs --endpoint=unix:///run/user/UID/fleet.sock, of your user id there")
        socket = own_paths().socket
        return Endpoint(text=f"unix://{socket}", socket=socket, is_users=True)
    first, *others = settings.endpoint.split(",")
    if others:
        output.warning(f"warning: multiple endpoints given, but only the first ({first}) is used")
    return parse_endpoint(first.strip())


def _warn_of_ignored_options(settings: Settings) -> None:
    given = {
        "--driver=etcd": settings.driver == "etcd",
        "--etcd-key-prefix": settings.etcd_key_prefix != Settings().etcd_key_prefix,
        "--experimental-api=false": not settings.experimental_api,
    }
    if options := ", ".join(option for option, is_given in given.items() if is_given):
        output.warning(f"warning: ignored: {options} (fleetctl uses only fleetd's API)")


def tls_contexts(settings: Settings, endpoint: Endpoint) -> "Sequence[TlsContext]":
    """What makes the contexts of TLS to this endpoint, to be tried in this order until one trusts the server: that of
    the options, or of the login to the cluster that has this address; if there are none, those of all logins, and the
    system's authorities. Raises CommandFailed."""
    if _names_certificates(settings):
        context = _bundle_context(settings) or _tls_context(settings)
        return [lambda: context]
    from fleetctl.logins import find_logins

    if own := find_login(settings, endpoint):
        return [partial(_login_context, own)]
    return [*(partial(_login_context, login) for login in find_logins()), partial(_tls_context, settings)]


def find_login(settings: Settings, endpoint: Endpoint) -> "Login | None":
    """The login to the cluster that has this address, None if the options name other certificates."""
    if not endpoint.tls or _names_certificates(settings):
        return None
    from fleetctl.logins import choose_login, find_logins

    return choose_login(find_logins(), endpoint.host, endpoint.port)


def _names_certificates(settings: Settings) -> bool:
    named = (settings.ca_file, settings.cert_file, settings.key_file)
    return any((*named, settings.etcd_cafile, settings.etcd_certfile, settings.etcd_keyfile))


def _login_context(login: "Login") -> "ssl.SSLContext":
    """TLS with the certificate of a login. Raises CommandFailed."""
    try:
        return login.context()
    except (OSError, ValueError) as error:
        _refuse(f"{login.folder} cannot be used for TLS: {error}; fleetctl login makes it again, or remove it")


def _bundle_context(settings: Settings) -> "ssl.SSLContext | None":
    """TLS with what `fleetctl login --for` wrote, which is all in one file; None if --cert-file names something
    else. Raises CommandFailed."""
    from fleetctl.logins import fleet_context
    from fleetd.model.certificate import split_pem

    path = settings.cert_file
    if not path or any((settings.key_file, settings.ca_file, settings.etcd_keyfile, settings.etcd_cafile)):
        return None
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    authorities = split_pem(text)[1:]
    if "PRIVATE KEY" not in text or not authorities:
        return None
    try:
        context = fleet_context("".join(authorities))
        context.load_cert_chain(path, password="")
    except (OSError, ValueError) as error:
        _refuse(f"{path} cannot be used for TLS: {error}")
    return context


def _tls_context(settings: Settings) -> "ssl.SSLContext":
    """TLS authorities and client certificate. Raises CommandFailed for files that cannot be used."""
    import ssl

    authorities = settings.ca_file or settings.etcd_cafile
    certificate = settings.cert_file or settings.etcd_certfile
    key = settings.key_file or settings.etcd_keyfile
    if bool(certificate) != bool(key):
        _refuse("a client certificate needs both --cert-file and --key-file")
    files = [path for path in (authorities, certificate, key) if path]
    for path in files:  # ssl's errors do not name the file
        try:
            with open(path, "rb"):
                continue
        except OSError as error:
            _refuse(f"open {path}: {cause_of(error)}")
    try:
        context = ssl.create_default_context(cafile=authorities or None)
        if certificate:
            context.load_cert_chain(certificate, key, password="")  # never prompt for it
    except (OSError, ValueError) as error:
        _refuse(f"{' or '.join(files)} cannot be used for TLS: {error}")
    return context


def _refuse(why: str) -> NoReturn:
    raise CommandFailed(f"Unable to initialize client: {why}")


def open_transport(
    endpoint: Endpoint, timeout_s: float, tls: "Sequence[TlsContext]", bastion: "Connection | None"
) -> "HttpTransport | TunnelTransport":
    """A transport to the endpoint, through the bastion if there is one. It connects with the first request."""
    if bastion is None:
        from fleetctl.http_transport import HttpTransport

        return HttpTransport(endpoint, timeout_s, tls)
    from fleetctl.ssh.tunnel import TunnelTransport

    return TunnelTransport(bastion, endpoint, timeout_s, tls)


def own_name() -> str:
    """The name of the user, with sudo of the one who called it, as the value of a header; '' if there is none."""
    import pwd

    try:
        name = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # an id without a name, as in containers
        return ""
    return "".join(filter(str.isprintable, name)).encode().decode("latin-1")  # HTTP's own encoding of UTF-8


def open_bastion(settings: Settings) -> "Connection":
    """A connection to the host of --tunnel. Raises CommandFailed."""
    from fleetctl.ssh.connection import connect_to_bastion

    try:
        return connect_to_bastion(settings)
    except SshFailed as error:
        raise CommandFailed(f"Unable to initialize client: failed initializing SSH client: {error}") from error
