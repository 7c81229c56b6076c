"""Where the API is: endpoints and TLS files, read and checked before anything is asked.

Nothing connects here.
"""

from typing import TYPE_CHECKING, NoReturn
from urllib.parse import SplitResult, urlsplit

import msgspec

from fleetctl.errors import CommandFailed
from fleetctl.log import LOG
from fleetctl.settings import DEFAULT_ENDPOINT, Settings

if TYPE_CHECKING:  # costly to import: help must come without
    import ssl

_FORMS = "use unix:///PATH, http://HOST:PORT or https://HOST:PORT"


class Endpoint(msgspec.Struct, frozen=True):
    """One place to reach the API. `socket` is a unix socket's path ('' for TCP), `base` the URL before /fleet/v1."""

    text: str
    base: str
    socket: str = ""

    @property
    def tls(self) -> bool:
        return self.base.startswith("https:")


class InvalidEndpoint(ValueError):
    """The text names no place where an API can be."""


def parse_endpoint(text: str) -> Endpoint:
    """Raises InvalidEndpoint, in the original's words where it refuses too."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise InvalidEndpoint(f'endpoint "{text}": {error}; {_FORMS}') from error
    if not url.scheme or (url.scheme not in ("unix", "file", "http", "https") and "://" not in text):
        raise InvalidEndpoint(f'URL scheme undefined in endpoint "{text}": {_FORMS}')
    if url.scheme in ("unix", "file"):
        return _unix_endpoint(text, url)
    if url.scheme not in ("http", "https"):
        raise InvalidEndpoint(f'unsupported URL scheme "{url.scheme}" in endpoint "{text}": {_FORMS}')
    if not url.hostname or port == 0:
        raise InvalidEndpoint(f'endpoint "{text}" names no host: {_FORMS}')
    return Endpoint(text, f"{url.scheme}://{url.netloc}{url.path.rstrip('/')}")


def _unix_endpoint(text: str, url: SplitResult) -> Endpoint:
    if url.netloc:
        raise InvalidEndpoint(
            f'unable to connect to host "{url.netloc}" with scheme "{url.scheme}": '
            f"a socket's path begins with a third slash, {url.scheme}:///{url.netloc}{url.path}"
        )
    if url.path in ("", "/"):
        raise InvalidEndpoint(f'endpoint "{text}" names no socket: {_FORMS}')
    return Endpoint(text, "http://domain-sock", url.path)


def choose_endpoint(settings: Settings) -> Endpoint:
    """The endpoint that the settings ask for. Raises CommandFailed for what cannot be done."""
    if settings.driver not in ("API", "etcd"):
        _refuse(f'unrecognized driver "{settings.driver}": API is the only one')
    if settings.driver == "etcd" and settings.endpoint != DEFAULT_ENDPOINT:
        # It names etcd. Another cluster may be behind our own socket: nothing is to happen to that one instead.
        _refuse(
            f"driver etcd is not supported, and {settings.endpoint} is taken for etcd's: the daemon's API is the only "
            "way in; leave --driver out, and name the API with --endpoint"
        )
    _warn_of_the_meaningless(settings)
    first, *others = settings.endpoint.split(",")
    if others:
        LOG.warning("multiple endpoints given, but only the first (%s) is used", first)
    try:
        return parse_endpoint(first.strip())
    except InvalidEndpoint as error:
        _refuse(str(error))


def _warn_of_the_meaningless(settings: Settings) -> None:
    given = {
        "--driver=etcd": settings.driver == "etcd",
        "--etcd-key-prefix": settings.etcd_key_prefix != Settings().etcd_key_prefix,
        "--experimental-api=false": not settings.experimental_api,
    }
    if options := ", ".join(option for option, is_given in given.items() if is_given):
        LOG.warning("without effect: %s (the daemon's API is the only way in)", options)


def tls_context(settings: Settings) -> "ssl.SSLContext":
    """How to check the API's certificate, and which to show. Raises CommandFailed for files that cannot be used."""
    import ssl

    authorities = settings.ca_file or settings.etcd_cafile
    certificate = settings.cert_file or settings.etcd_certfile
    key = settings.key_file or settings.etcd_keyfile
    if bool(certificate) != bool(key):
        _refuse("a client certificate takes both --cert-file and --key-file")
    files = [path for path in (authorities, certificate, key) if path]
    for path in files:  # the library's own errors do not say which file they are about
        try:
            with open(path, "rb"):
                continue
        except OSError as error:
            _refuse(f"open {path}: {(error.strerror or str(error)).lower()}")
    try:
        context = ssl.create_default_context(cafile=authorities or None)
        if certificate:
            context.load_cert_chain(certificate, key, password="")  # never asks for one
    except (OSError, ValueError) as error:
        _refuse(f"{' or '.join(files)} cannot be used for TLS: {error}")
    return context


def _refuse(why: str) -> NoReturn:
    raise CommandFailed(f"Unable to initialize client: {why}")
