"""The types of version 2 that are about machines that join, and their certificates; schema.py has them too, under the
same names."""

import msgspec

# POST /fleet/v2/machine-tokens


class MachineTokenRequest(msgspec.Struct, frozen=True):
    """The body: the full id of the only machine that may use the token ('': any machine that the cluster does not
    know)."""

    machine: str = ""


class MachineToken(msgspec.Struct, frozen=True, omit_defaults=True):
    """A join token, which one machine can use until `expires` (Unix time, s). `machine` is as asked for;
    `servers` are the https URLs of the servers that it can be used at."""

    token: str
    expires: float
    machine: str = ""
    servers: tuple[str, ...] = ()


# GET /fleet/v2/authorities, POST /fleet/v2/join, POST /fleet/v2/renew: over https, without a certificate.


class MachineRevocation(msgspec.Struct, frozen=True):
    """Certificates of this machine that were made before a Unix time do not count any more."""

    machine: str
    before: float


class Authorities(msgspec.Struct, frozen=True, omit_defaults=True):
    """The certificates, as PEM, of the authorities that the cluster trusts. `fingerprint` is the SHA-256 (of the DER)
    of the one that signs now. `revocations` are of machines whose certificates may not have expired yet."""

    authorities: str
    fingerprint: str
    revocations: tuple[MachineRevocation, ...] = ()


class NewAuthority(msgspec.Struct, frozen=True, omit_defaults=True):
    """The authority that signs from now on: its number, and the `fingerprint` of its certificate (SHA-256 of the DER).
    What the former one has signed counts until `formerUntil` (a Unix time). `keyFile` is where its private key is on
    the machine that was asked, if that is not in the store: the other servers fetch it from there."""

    number: int
    fingerprint: str
    former_until: float = msgspec.field(name="formerUntil")
    key_file: str = msgspec.field(name="keyFile", default="")


class AuthorityKey(msgspec.Struct, frozen=True):
    """An authority: its number, its certificate and its private key, both as PEM."""

    number: int
    certificate: str
    key: str


class AuthorityKeys(msgspec.Struct, frozen=True):
    """The authorities whose private keys are in files of the machine that was asked. For its fellow servers alone."""

    keys: tuple[AuthorityKey, ...]


class JoinRequest(msgspec.Struct, frozen=True):
    """The body: the secret of a token, which is its last part, and a request for a certificate (PKCS #10, as PEM),
    whose key alone counts. `machine` is the machine's id; `address`, `metadata` and `hostKeys` (of its SSH server, each
    as `KIND BASE64`) are what the cluster is to know of it, whatever it says of itself later."""

    secret: str
    csr: str
    machine: str
    address: str = ""
    metadata: dict[str, str] = {}
    host_keys: tuple[str, ...] = msgspec.field(name="hostKeys", default=())


class JoinAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The machine's certificate and the authorities that it is to trust, as PEM; the https URLs of the
    servers; and the id of the cluster."""

    certificate: str
    authorities: str
    servers: tuple[str, ...] = ()
    cluster: str = msgspec.field(name="clusterId", default="")


class RenewalRequest(msgspec.Struct, frozen=True):
    """The body: the machine's present certificate, which may have expired, and a request for the next one, made with
    the same key; both as PEM."""

    certificate: str
    csr: str


class Renewal(msgspec.Struct, frozen=True, omit_defaults=True):
    """The next certificate, the authorities to trust, and the https URLs of the servers."""

    certificate: str
    authorities: str
    servers: tuple[str, ...] = ()


# POST /fleet/v2/machines/{machine}/remove


class MachineRemoval(msgspec.Struct, frozen=True):
    """The body. With `force`, a machine on which units run is removed, too."""

    force: bool = False
