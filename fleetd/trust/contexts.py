"""TLS with the certificates of a cluster, as the standard library does it: both sides of each connection."""

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from fleetd.model.certificate import CertificateIdentity, parse_peer_certificate

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME. The server looks at the times of a client's certificate itself, so that a client
# whose certificate has expired is told so in words.
NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
X509_V_ERR_CERT_REVOKED = 23
Refuse = Callable[[CertificateIdentity], str]  # why the certificate of a server does not count, '' if it does
CLOCK_ERRORS = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED


def is_certificate(text: str) -> bool:
    """True for a certificate, as PEM, that a context can trust."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError, TypeError):  # also empty, or not ASCII
        return False
    return True


def client_context(authorities: Sequence[str] = ()) -> ssl.SSLContext:
    """The TLS of a client that trusts these authorities (PEM). Names are not checked: only servers' certificates may
    serve. Raises ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authorities:
        context.load_verify_locations(cadata="".join(authorities))
    return context


def refuse_servers(context: ssl.SSLContext, refuse: Refuse) -> None:
    """Have connections of this context of a client fail before anything is sent to a server whose certificate does not
    count: `refuse` returns why, or ''. The handshake raises ssl.SSLCertVerificationError then."""

    class CheckedObject(ssl.SSLObject):  # of asyncio
        def do_handshake(self) -> None:
            super().do_handshake()
            _check_server(self, refuse)

    class CheckedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            _check_server(self, refuse)

    context.sslobject_class, context.sslsocket_class = CheckedObject, CheckedSocket


def _check_server(connection: ssl.SSLObject | ssl.SSLSocket, refuse: Refuse) -> None:
    """Raises ssl.SSLCertVerificationError for a connection to a server that `refuse` refuses."""
    try:
        refusal = refuse(parse_peer_certificate(connection.getpeercert() or {}))
    except ValueError as error:
        refusal = str(error)
    if refusal:
        failure = ssl.SSLCertVerificationError(refusal)
        failure.verify_code, failure.verify_message = X509_V_ERR_CERT_REVOKED, refusal
        raise failure


class Contexts(Protocol):
    """The TLS of a machine, as TlsContexts has it. Its contexts are those of the next connection."""

    @property
    def server(self) -> ssl.SSLContext | None:
        """For who serves: clients may have a certificate. None without a certificate of this machine."""

    @property
    def client(self) -> ssl.SSLContext:
        """For who connects to a server. It is another object once an authority is not trusted any more,
        and with each certificate of this machine."""

    def can_trust(self, certificate: str) -> bool:
        """True for what is a certificate, as PEM, that can be trusted."""

    def trust(self, authorities: Sequence[str]) -> None:
        """Trust these authorities, of these certificates, alone. Raises OSError."""

    def load(self, certificate: Path, key: Path) -> None:
        """Use this certificate from the next handshake on. Raises OSError."""


MakeContexts = Callable[[Refuse | None], Contexts]


class TlsContexts:
    """The contexts of a machine. An authority that is trusted in addition is loaded into those that are in use, and
    into a server's a certificate that is renewed; a client gets another context then, so that it makes new connections
    instead of using those with the former one, which expires. Where an authority is not trusted any more, others
    replace both. `refuse` returns why the certificate of a server does not count, '' if it does (None: each counts that
    is signed)."""

    def __init__(self, refuse: Refuse | None = None) -> None:
        self._refuse = refuse
        self._trusted: tuple[str, ...] = ()
        self._certificate: tuple[Path, Path] | None = None
        self._server, self._client = self._make()

    @property
    def server(self) -> ssl.SSLContext | None:
        """For who serves: clients may have a certificate. None without a certificate of this machine."""
        return self._server if self._certificate else None

    @property
    def client(self) -> ssl.SSLContext:
        """For who connects to a server. Names are not checked: only servers' certificates may serve."""
        return self._client

    def can_trust(self, certificate: str) -> bool:
        """True for what is a certificate, as PEM, that can be trusted."""
        return is_certificate(certificate)

    def trust(self, authorities: Sequence[str]) -> None:
        """Trust these authorities, of these certificates, alone. Raises ssl.SSLError."""
        former, self._trusted = self._trusted, tuple(authorities)
        if not set(former) <= set(authorities):
            self._server, self._client = self._make()
        elif added := [each for each in authorities if each not in former]:
            for context in (self._server, self._client):
                context.load_verify_locations(cadata="".join(added))

    def load(self, certificate: Path, key: Path) -> None:
        """Use this certificate from the next handshake on. Raises OSError, of which ssl.SSLError is one."""
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)  # try them first
        self._certificate = certificate, key
        self._server.load_cert_chain(certificate, key)
        _, self._client = self._make()

    def _make(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), client_context(self._trusted)
        if self._refuse:
            refuse_servers(client, self._refuse)
        server.verify_mode = ssl.CERT_OPTIONAL
        server.options |= ssl.OP_NO_TICKET  # a session that is resumed would not show a revocation
        server.num_tickets = 0
        server.verify_flags |= NO_CHECK_TIME
        server.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._trusted:
            server.load_verify_locations(cadata="".join(self._trusted))
        if self._certificate:
            for context in (server, client):
                context.load_cert_chain(*self._certificate)
        return server, client
