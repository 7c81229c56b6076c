"""What the API needs of the authority of the cluster."""

from collections.abc import Sequence
from typing import Protocol

from fleetd.api.http import ApiError
from fleetd.model.certificate import Authority, CertificateIdentity, Revocation, TrustedAuthority
from fleetd.registry.records import REVOCATIONS
from fleetd.registry.registry import Registry


class Trust(Protocol):
    """The authority, as the TrustKeeper of a server has it. Each method raises ValueError in words for people (a
    request for a certificate is none, this server has no authority), and SigningFailed."""

    async def fingerprint(self) -> str:
        """The SHA-256 of the certificate, as DER, of the authority that signs now, in hexadecimal digits."""

    async def authorities(self) -> str:
        """The certificates of all authorities that are trusted now, as PEM, one after the other."""

    async def sign(
        self,
        request: str,
        identity: CertificateIdentity,
        *,
        names: Sequence[str] = (),
        server: bool = False,
        now_s: float,
        life_s: float | None = None,
    ) -> str:
        """The certificate, as PEM, of the key that made this request. It names this identity, counts as made at
        `now_s`, a Unix time, and is valid for `life_s` (None: as long as those of machines). `names` are names and
        addresses at which it is served, if `server`."""

    async def read_renewal(self, certificate: str, request: str) -> CertificateIdentity:
        """Whom a certificate names, which has perhaps expired, if a trusted authority has signed it, and the
        request was made with its key."""

    async def revoke(self, subject: str, by: str) -> Revocation:
        """Revoke all certificates of a subject that were made until now. Raises StoreError."""

    def revocations(self) -> Sequence[Revocation]:
        """All that this server knows: a store that was restored may have lost some."""

    async def rotate(self, by: str) -> TrustedAuthority:
        """Make another authority, which signs from now on; it raises StoreError, too."""

    def former_until(self, authority: TrustedAuthority) -> float:
        """The Unix time until which what the authority before this one has signed counts."""

    def key_file(self, authority: TrustedAuthority) -> str:
        """The file with the private key of the authority on this machine, '' if the key is in the store."""

    def keys_in_files(self) -> Sequence[Authority]:
        """The authorities of the cluster whose private keys are in files here: for other servers alone."""


def require_trust(trust: Trust | None) -> Trust:
    """The authority, if this fleetd has one. Raises ApiError."""
    if trust is None:
        raise ApiError(
            409, "this machine serves no https: set listen=https://:7443 in its fleet.conf, or ask one that does"
        )
    return trust


async def read_revocations(registry: Registry, trust: Trust | None) -> list[Revocation]:
    """Those in the store, and those that this server knows beside them."""
    stored = await registry.read(REVOCATIONS)
    return [*stored.values(), *(trust.revocations() if trust else ())]
