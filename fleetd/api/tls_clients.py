"""Who a client over https is, by its certificate, and why it is refused. Pure: the clock is an argument."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from fleetd.api.connection_limits import MAX_CONNECTIONS
from fleetd.model.actor import Actor
from fleetd.model.certificate import BACKDATED_S, MACHINE, CertificateIdentity, parse_peer_certificate
from fleetd.model.timespan import render_moment

MACHINE_CONNECTIONS = 24
LOGIN = "fleetctl login --tunnel SERVER gets one, if you can log in to that server over SSH"


class TlsClient(msgspec.Struct, frozen=True):
    """A client whose certificate is one of this cluster's, or that has none; `flaw` says what is wrong with it."""

    certificate: CertificateIdentity | None = None
    flaw: str = ""

    @property
    def subject(self) -> str:
        """What its connections are bounded by; those without a certificate are bounded together."""
        return self.certificate.subject if self.certificate else ""

    @property
    def most_connections(self) -> int:
        """How many connections it may have at once: a worker reads one stream, and sends a few requests at a time."""
        is_machine = self.certificate is not None and self.certificate.kind == MACHINE
        return MACHINE_CONNECTIONS if is_machine else MAX_CONNECTIONS

    def refuse(
        self, now_s: float, is_revoked: Callable[[CertificateIdentity], bool], unsure: str = ""
    ) -> tuple[int, str]:
        """The status and the words with which it is refused at this time; '' if its certificate counts. `unsure` says
        why it is not known which ones were revoked, '' if it is."""
        if self.certificate is None:
            return 401, self.flaw or f"this needs a client certificate: {LOGIN}"
        subject = self.certificate.subject
        if is_revoked(self.certificate):
            remedy = "have it join again (fleetd join)" if self.certificate.kind == MACHINE else LOGIN
            return 403, f"the certificate of {subject} was revoked; {remedy}"
        if now_s >= self.certificate.expires_at_s:
            remedy = "it has to be renewed" if self.certificate.kind == MACHINE else LOGIN
            expired = render_moment(self.certificate.expires_at_s)
            return 401, (
                f"the certificate of {subject} expired at {expired}, and the clock here says {render_moment(now_s)}: "
                f"{remedy}"
            )
        if now_s < self.certificate.issued_at_s - BACKDATED_S:
            begins = render_moment(self.certificate.issued_at_s - BACKDATED_S)
            return 401, (
                f"the certificate of {subject} counts from {begins} on, and the clock here says "
                f"{render_moment(now_s)}: one of the two clocks is wrong"
            )
        return (503, unsure) if unsure else (0, "")

    def actor(self) -> Actor:
        """Who makes the requests of a client that is not refused. A machine has no rights of its own."""
        if self.certificate is None:
            return Actor()
        return Actor(self.certificate.name, self.certificate.subject, self.certificate.rights)


def read_client(peer_certificate: Mapping[str, Any] | None) -> TlsClient:
    """The client with this certificate, as `SSLSocket.getpeercert()` shows it."""
    if not peer_certificate:
        return TlsClient()
    try:
        return TlsClient(parse_peer_certificate(peer_certificate))
    except ValueError as error:
        return TlsClient(flaw=f"this client certificate cannot be used: {error}")
