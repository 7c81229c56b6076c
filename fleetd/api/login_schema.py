"""The types of version 2 that are about certificates of people and services; schema.py has them too, under the same
names."""

import msgspec

# POST /fleet/v2/login


class LoginRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body: a request for a certificate (PKCS #10, as PEM; its names do not count). `service` is the name of the
    service that it is for ('': it is for the user). `rights` are permissions as in role.GROUP= of fleet.conf,
    `operate:web-*,submit:web-*` ('': all that the user has; a service needs some). `days` is how long a service's
    counts, from 1 to 90 (0: 90); a person's counts for twelve hours."""

    csr: str
    service: str = ""
    rights: str = ""
    days: int = 0


class Login(msgspec.Struct, frozen=True):
    """The certificate, as PEM, and those of the `authorities` that the cluster trusts. `subject` is whom it names
    (`person/ann`), `rights` what they may do, `expires` until when (a Unix time). `servers` are the https URLs of the
    API."""

    certificate: str
    authorities: str
    subject: str
    rights: str
    expires: float
    servers: tuple[str, ...]


# POST /fleet/v2/revocations


class RevocationRequest(msgspec.Struct, frozen=True):
    """The body: `person/NAME` or `service/NAME`."""

    subject: str
