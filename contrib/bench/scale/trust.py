"""Certificates of a run in which most machines are workers: one authority, whose key lies in the run's directory."""

import ssl
import time
from pathlib import Path

import msgspec

from fleetd.model.certificate import MACHINE, SERVER, WORKER, CertificateIdentity, uris
from fleetd.trust import x509

LOOPBACK = "127.0.0.1"


def make_authority(directory: Path) -> None:
    """Leave a new authority in the directory."""
    authority = x509.make_authority(1, time.time())
    (directory / "authority.pem").write_text(authority.certificate)
    (directory / "authority.json").write_bytes(msgspec.json.encode(authority))


class Certificates:
    """Makes the TLS of machines, with certificates of the authority in the directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = msgspec.json.decode((directory / "authority.json").read_bytes(), type=x509.Authority)

    def client(self, machine: str) -> ssl.SSLContext:
        """The TLS of a worker to its servers."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        return self._load(context, CertificateIdentity(MACHINE, machine, WORKER))

    def server(self, machine: str) -> "ServerCertificates":
        """What a server shows to workers."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.num_tickets = 0
        return ServerCertificates(self._load(context, CertificateIdentity(MACHINE, machine, SERVER)))

    def _load(self, context: ssl.SSLContext, identity: CertificateIdentity) -> ssl.SSLContext:
        key, request = x509.make_request()
        is_server = identity.role == SERVER
        names = (LOOPBACK,) if is_server else ()
        made = x509.sign(
            self._authority, request, uris(identity), names=names, server=is_server, now_s=time.time(), life_s=86400.0
        )
        path = self._directory / f"{identity.name}.pem"
        path.write_text(made + key)
        context.load_cert_chain(path)
        context.load_verify_locations(self._directory / "authority.pem")
        path.unlink()
        return context


class ServerCertificates:
    """The certificate of a server; no other is revoked."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def server_context(self) -> ssl.SSLContext:
        return self._context

    def is_revoked(self, identity: CertificateIdentity) -> bool:
        return False

    def why_unsure(self) -> str:
        return ""
