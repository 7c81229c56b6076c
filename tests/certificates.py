"""Certificates for tests, as the authority of a cluster makes them, and TLS contexts with them."""

import ssl
import time
from collections.abc import Sequence
from pathlib import Path

from fleetd.model.certificate import (
    MACHINE,
    PERSON,
    SERVER,
    SERVICE,
    CertificateIdentity,
    Revocation,
    is_revoked,
    uris,
)
from fleetd.model.permission import NO_RIGHTS, parse_rights
from fleetd.trust import x509
from fleetd.trust.contexts import NO_CHECK_TIME

LIFE_S = 3600.0


class TestAuthority:
    """An authority whose certificates lie in files of this folder."""

    __test__ = False

    def __init__(self, folder: Path, number: int = 1) -> None:
        self.folder = folder
        self.authority = x509.make_authority(number, time.time())
        self.path = folder / f"authority-{number}.pem"
        self.path.write_text(self.authority.certificate)
        self._made = 0

    def make(
        self, identity: CertificateIdentity, *, age_s: float = 0.0, life_s: float = LIFE_S, names: Sequence[str] = ()
    ) -> Path:
        """A file with a certificate and its key, made so long ago."""
        key, request = x509.make_request()
        certificate = x509.sign(
            self.authority,
            request,
            uris(identity),
            names=names,
            server=identity.role == SERVER,
            now_s=time.time() - age_s,
            life_s=life_s,
        )
        self._made += 1
        path = self.folder / f"{identity.kind}-{identity.name}-{self.authority.number}-{self._made}.pem"
        path.write_text(certificate + key)
        return path

    def person(self, name: str, rights: str = "admin", **options: float) -> Path:
        return self.make(CertificateIdentity(PERSON, name, rights=parse_rights(rights)), **options)

    def service(self, name: str, rights: str = "admin", **options: float) -> Path:
        return self.make(CertificateIdentity(SERVICE, name, rights=parse_rights(rights)), **options)

    def machine(self, id_: str, role: str = SERVER, **options: float) -> Path:
        return self.make(CertificateIdentity(MACHINE, id_, role, NO_RIGHTS), **options)

    def client_context(self, certificate: Path | None = None) -> ssl.SSLContext:
        """The context of a client that trusts this authority."""
        context = ssl.create_default_context(cafile=str(self.path))
        context.check_hostname = False
        if certificate:
            context.load_cert_chain(certificate)
        return context


class TestTrust:
    """What a server needs of its certificates, with revocations for tests to add."""

    __test__ = False

    def __init__(self, authority: TestAuthority) -> None:
        self.revocations: list[Revocation] = []
        self.unsure = ""  # why it is not known which certificates were revoked
        self.context: ssl.SSLContext | None = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(authority.machine("m1", names=["127.0.0.1"]))  # type: ignore[arg-type]
        self.context.load_verify_locations(authority.path)
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.context.options |= ssl.OP_NO_TICKET
        self.context.num_tickets = 0
        self.context.verify_flags |= NO_CHECK_TIME

    def server_context(self) -> ssl.SSLContext | None:
        return self.context

    def why_unsure(self) -> str:
        return self.unsure

    def is_revoked(self, identity: CertificateIdentity) -> bool:
        return is_revoked(identity, self.revocations)

    def revoke(self, subject: str) -> None:
        self.revocations.append(Revocation(len(self.revocations) + 1, subject, time.time() + LIFE_S))
