"""An authority in this process, as the TrustKeeper of a server has it."""

from collections.abc import Awaitable, Callable, Sequence

from fleetd.model.certificate import (
    MACHINE_LIFE_S,
    Authority,
    CertificateIdentity,
    Revocation,
    TrustedAuthority,
    fingerprint,
    revoke,
)
from fleetd.trust import x509
from fleetd.trust.__main__ import answer
from fleetd.trust.signing import Signer


async def sign_here(call: bytes) -> bytes:
    """Answer a call without a process."""
    return answer(call)


class Issuer:
    """The authority of a cluster. `authority` may be replaced, `known` are the revocations on this server's disk."""

    def __init__(self, now_s: float) -> None:
        self.authority: Authority = x509.make_authority(1, now_s)
        self.trusted = [self.authority]
        self.now_s = now_s
        self.known: list[Revocation] = []
        self.signed = 0
        self.keys_are_in = ""  # the file that is said to have the key of the authority
        self._signer = Signer(sign_here)
        self.read: Callable[..., Awaitable[tuple[CertificateIdentity, str]]] = self._signer.inspect

    async def fingerprint(self) -> str:
        return fingerprint(self.authority.certificate)

    async def authorities(self) -> str:
        return "".join(each.certificate for each in self.trusted)

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
        self.signed += 1
        life_s = MACHINE_LIFE_S if life_s is None else life_s
        return await self._signer.sign(
            self.authority, request, identity, names=names, server=server, now_s=now_s, life_s=life_s
        )

    async def read_renewal(self, certificate: str, request: str) -> CertificateIdentity:
        return (await self.read(certificate, [each.certificate for each in self.trusted], request))[0]

    async def revoke(self, subject: str, by: str) -> Revocation:
        self.known.append(revoke(len(self.known) + 1, subject, by, self.now_s))
        return self.known[-1]

    def revocations(self) -> Sequence[Revocation]:
        return self.known

    async def rotate(self, by: str) -> TrustedAuthority:
        self.authority = x509.make_authority(self.authority.number + 1, self.now_s)
        self.trusted.append(self.authority)
        return TrustedAuthority(self.authority.number, self.authority.certificate, by=by, at_s=self.now_s)

    def former_until(self, authority: TrustedAuthority) -> float:
        return authority.at_s + MACHINE_LIFE_S

    def key_file(self, authority: TrustedAuthority) -> str:
        return self.keys_are_in

    def keys_in_files(self) -> Sequence[Authority]:
        return self.trusted if self.keys_are_in else ()
