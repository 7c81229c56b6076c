"""Certificates for people and services, and their revocation.

A person gets one where the kernel knows who they are: over a unix socket of a server, to which SSH may lead. It holds
their rights of that moment for twelve hours. Users who may do everything have certificates made for services there,
too. No certificate makes another one: who is no longer in a group, or has stolen one, loses its rights in the end.
"""

from collections.abc import Callable

from fleetd.api import schema
from fleetd.api.audit import Audit
from fleetd.api.http import ApiError, Request, Response, parse_json, render_json
from fleetd.api.trust import Trust, read_revocations, require_trust
from fleetd.api.v2.joining import find_servers
from fleetd.model.certificate import (
    DAY_S,
    PERSON,
    PERSON_LIFE_S,
    SERVICE,
    SERVICE_LIFE_S,
    CertificateIdentity,
    issue_time,
    refuse_name,
)
from fleetd.model.join_token import MAX_REQUEST
from fleetd.model.permission import Permission, Rights, parse_rights
from fleetd.registry.registry import Registry

_NO_HTTPS = "no machine of the cluster serves https: set listen=https://:7443 in the fleet.conf of the servers"
_OVER_A_SOCKET = (
    "a certificate is given to whom the kernel of a server knows: log in over its socket, or from elsewhere with "
    "fleetctl login --tunnel SERVER (over SSH, as the certificate that you have makes no other)"
)
_MOST_DAYS = int(SERVICE_LIFE_S / DAY_S)


class Logins:
    """The resources. `trust` is None where fleetd has no authority; `unix_now` is the wall clock."""

    def __init__(self, registry: Registry, trust: Trust | None, audit: Audit, unix_now: Callable[[], float]) -> None:
        self._registry = registry
        self._trust = trust
        self._audit = audit
        self._unix_now = unix_now

    async def post(self, request: Request, _: str) -> Response:
        """Give a user, over a unix socket, a certificate for https with their rights; or one for a service, if they may
        do everything."""
        trust = require_trust(self._trust)
        asked = parse_json(request.body, schema.LoginRequest)
        if not request.local:
            raise ApiError(403, _OVER_A_SOCKET)
        if len(asked.csr) > MAX_REQUEST:
            raise ApiError(400, f"csr has more than {MAX_REQUEST} characters")
        identity, life_s = _identify_service(request, asked) if asked.service else _identify_person(request, asked)
        if excess := request.actor.rights.find_excess(identity.rights):
            raise ApiError(403, f"you cannot give what you do not have yourself: {excess}")
        servers = await find_servers(self._registry)
        if not servers:
            raise ApiError(409, _NO_HTTPS)
        revocations = await read_revocations(self._registry, trust)
        now_s = issue_time(identity.subject, revocations, self._unix_now())
        try:
            certificate = await trust.sign(asked.csr, identity, now_s=now_s, life_s=life_s)
            authorities = await trust.authorities()
        except ValueError as error:
            raise ApiError(409, str(error)) from error
        self._audit.note(request.actor, "login", identity.subject)
        rights = ",".join(map(str, identity.rights.grants))
        return render_json(
            schema.Login(certificate, authorities, identity.subject, rights, int(now_s) + life_s, servers)
        )

    async def revoke(self, request: Request, _: str) -> Response:
        """Revoke every certificate of a person or a service that was made until now, and close their connections."""
        request.check_permission(Permission.ADMIN)
        trust = require_trust(self._trust)
        subject = parse_json(request.body, schema.RevocationRequest).subject
        kind, _slash, name = subject.partition("/")
        if kind not in (PERSON, SERVICE):
            raise ApiError(
                400,
                f"subject has to be {PERSON}/NAME or {SERVICE}/NAME; fleetctl machine remove revokes a machine's "
                "certificates",
            )
        if refusal := refuse_name(name):
            raise ApiError(400, refusal)
        await trust.revoke(subject, request.user)
        self._audit.note(request.actor, "revoke", subject)
        return Response(204)


def _identify_person(request: Request, asked: schema.LoginRequest) -> tuple[CertificateIdentity, float]:
    """Whom the certificate of the user names, and how long it counts. Raises ApiError."""
    if asked.days:
        raise ApiError(400, f"a person's certificate counts for {PERSON_LIFE_S / 3600:g} hours; days are for services")
    return _identify(PERSON, request.actor.name, request.actor.rights, asked.rights), PERSON_LIFE_S


def _identify_service(request: Request, asked: schema.LoginRequest) -> tuple[CertificateIdentity, float]:
    """Whom the certificate of a service names, and how long it counts. Raises ApiError."""
    request.check_permission(Permission.ADMIN)
    if not asked.rights:
        raise ApiError(400, "say what the service may do: rights like view, or operate:web-*,submit:web-*")
    if not 0 <= asked.days <= _MOST_DAYS:
        raise ApiError(400, f"a service's certificate counts for 1 to {_MOST_DAYS} days")
    return _identify(SERVICE, asked.service, Rights(), asked.rights), (asked.days or _MOST_DAYS) * DAY_S


def _identify(kind: str, name: str, rights: Rights, wanted: str) -> CertificateIdentity:
    """Whom a certificate with these rights, or with those that are wanted, names. Raises ApiError."""
    if refusal := refuse_name(name):
        raise ApiError(400, refusal)
    try:
        return CertificateIdentity(kind, name, rights=parse_rights(wanted) if wanted else rights)
    except ValueError as error:
        raise ApiError(400, str(error)) from error
