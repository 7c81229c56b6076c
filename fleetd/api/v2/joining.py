"""Machines that join with a token, as workers, and the renewal of their certificates.

`join` and `renew` are for machines without a certificate that counts: every client that reaches the port may call
them. For a secret that no token has nothing is signed, and no process started.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from fleetd.api import schema
from fleetd.api.audit import Audit
from fleetd.api.http import ApiError, Request, Response, parse_json, render_json
from fleetd.api.trust import Trust, read_revocations, require_trust
from fleetd.model.actor import Actor
from fleetd.model.certificate import (
    MACHINE,
    MACHINE_LIFE_S,
    SERVER,
    WORKER,
    CertificateIdentity,
    is_revoked,
    issue_time,
    latest_revocations,
)
from fleetd.model.decoding import UNREADABLE
from fleetd.model.host_keys import parse_public_keys
from fleetd.model.join_token import (
    KEPT_S,
    LIFE_S,
    MAX_REQUEST,
    SECRET_BYTES,
    Claim,
    JoinToken,
    TokenText,
    hash_text,
    make_secret,
    refuse_machine_id,
    refuse_newcomer,
    refuse_use,
)
from fleetd.model.machine import https_url
from fleetd.model.machine_identity import MachineIdentity
from fleetd.registry.records import (
    JOIN_TOKENS,
    MACHINE_IDENTITIES,
    MACHINES,
    PLACEMENTS,
    REBOOTS,
    REVOCATIONS,
    SETTINGS,
    SYNCED,
    MalformedRecord,
)
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Comparison, Conflict, KeyValue, Unchanged
from fleetd.trust.signing import SigningFailed

MAX_WAITING = 30  # callers without a certificate that counts, for the one process that looks at theirs
MAX_JOINING = 30  # at once: each reads the store before its token is known to be one
_ATTEMPTS = 5  # while others write the same records
_BUSY = "other machines' certificates are being looked at: try again in a moment"

T = TypeVar("T")


class Joining:
    """The resources. `trust` is None where fleetd has no authority; `unix_now` is the wall clock, `random` returns so
    many random bytes."""

    def __init__(
        self,
        registry: Registry,
        trust: Trust | None,
        audit: Audit,
        unix_now: Callable[[], float],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._registry = registry
        self._trust = trust
        self._audit = audit
        self._unix_now = unix_now
        self._random = random
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._joining = 0

    async def post_token(self, request: Request, _: str) -> Response:
        """Make a join token: with it, one machine can join within an hour, with `fleetd join`. The answer alone has its
        secret."""
        asked = parse_json(request.body, schema.MachineTokenRequest)
        if asked.machine and (refusal := refuse_machine_id(asked.machine)):
            raise ApiError(400, refusal)
        authority = await _refuse_with(409, require_trust(self._trust).fingerprint())
        servers = await self._servers()
        if not servers:
            raise ApiError(409, "no machine of the cluster says where it serves https: is this one registered?")
        made_at_s = self._unix_now()
        token = JoinToken(
            authority,
            made_at_s,
            made_at_s + LIFE_S,
            by=request.user,
            machine=asked.machine,
            history=await self._history(),
        )
        secret = make_secret(self._random(SECRET_BYTES))
        lease = await self._registry.store.grant(LIFE_S + KEPT_S)
        key = self._registry.key(JOIN_TOKENS, hash_text(secret))
        written = self._registry.put(token, hash_text(secret), lease=lease)
        await self._registry.store.transact([Unchanged(key, 0)], [written])
        text = str(TokenText(authority, secret))
        return render_json(schema.MachineToken(text, token.expires_at_s, token.machine, servers))

    async def get_authorities(self, _: Request, __: str) -> Response:
        """Show the certificates of the authorities that the cluster trusts, to anybody: a machine that joins compares
        the fingerprint in its token with them. And the machines whose certificates were revoked: a client takes none of
        them for a server."""
        trust = require_trust(self._trust)
        authorities = await _refuse_with(409, trust.authorities())
        revoked = latest_revocations(trust.revocations(), MACHINE, self._unix_now(), MACHINE_LIFE_S)
        return render_json(
            schema.Authorities(
                authorities,
                await _refuse_with(409, trust.fingerprint()),
                tuple(schema.MachineRevocation(machine, before_s) for machine, before_s in sorted(revoked.items())),
            )
        )

    async def post_authority(self, request: Request, _: str) -> Response:
        """Make another authority of the cluster, which signs from now on. What the former one has signed counts for the
        life of one more certificate of a machine, in which every machine gets one of the new authority."""
        trust = require_trust(self._trust)
        made = await _refuse_with(409, trust.rotate(request.user))
        return render_json(
            schema.NewAuthority(
                made.number,
                await _refuse_with(409, trust.fingerprint()),
                trust.former_until(made),
                trust.key_file(made),
            )
        )

    async def get_keys(self, request: Request, _: str) -> Response:
        """Give another server, which is known by its certificate, the private keys of authorities that are in files."""
        asks = request.certificate
        if asks is None or (asks.kind, asks.role) != (MACHINE, SERVER):
            raise ApiError(403, "the private keys of the authorities are for servers of the cluster alone")
        self._audit.note(Actor(asks.subject, asks.subject), "fetch", "keys of authorities")
        keys = require_trust(self._trust).keys_in_files()
        return render_json(
            schema.AuthorityKeys(tuple(schema.AuthorityKey(each.number, each.certificate, each.key) for each in keys))
        )

    async def join(self, request: Request, _: str) -> Response:
        """Give a machine that has a join token its certificate, and record what it says of itself. Over https, without
        a certificate."""
        if self._joining >= MAX_JOINING:
            raise ApiError(503, _BUSY, (("Retry-After", "1"),))
        self._joining += 1
        try:
            return await self._join(require_trust(self._trust), request)
        finally:
            self._joining -= 1

    async def _join(self, trust: Trust, request: Request) -> Response:
        asked = _parse_join(request.body)
        identity = _check_newcomer(asked)
        key = hash_text(asked.secret)
        for _attempt in range(_ATTEMPTS):
            token, guards, lease = await self._claim(key, asked)
            certificate = await self._sign(trust, asked.csr, asked.machine)
            used = replace(token, used_by=asked.machine, request=hash_text(asked.csr))
            joined = replace(identity, by=token.by, joined_at_s=self._unix_now())
            operations = [self._registry.put(used, key, lease=lease), self._registry.put(joined, asked.machine)]
            try:
                await self._registry.store.transact(guards, operations)
            except Conflict:
                continue  # another machine has been quicker, or this one has asked twice
            maker = Actor(f"token of {token.by or 'somebody'}", f"token({token.by})")
            self._audit.note_machine(maker, "join", asked.machine)
            return render_json(
                schema.JoinAnswer(
                    certificate,
                    await _refuse_with(409, trust.authorities()),
                    await self._servers(),
                    await self._registry.store.cluster_id(),
                )
            )
        raise ApiError(409, "others use this token all the time: try again")

    async def renew(self, request: Request, _: str) -> Response:
        """Give a worker its next certificate for its present one, which may have expired, but is not revoked. Over
        https, without a certificate."""
        trust = require_trust(self._trust)
        asked = parse_json(request.body, schema.RenewalRequest)
        if max(len(asked.certificate), len(asked.csr)) > MAX_REQUEST:
            raise ApiError(400, f"certificate and csr have at most {MAX_REQUEST} characters each")
        reading = trust.read_renewal(asked.certificate, asked.csr)
        found = await (self._in_turn(reading) if request.certificate is None else _refuse_with(403, reading))
        if (found.kind, found.role) != (MACHINE, WORKER):
            what = found.subject + (f", a {found.role}" if found.role else "")
            raise ApiError(403, f"this is the certificate of {what}: only those of workers are renewed here")
        await self._check_counts(trust, found)
        certificate = await self._sign(trust, asked.csr, found.name)
        await self._check_counts(trust, found)  # revoked meanwhile: what was just made counts as made after that
        authorities = await _refuse_with(409, trust.authorities())
        return render_json(schema.Renewal(certificate, authorities, await self._servers()))

    async def _claim(self, key: str, asked: schema.JoinRequest) -> tuple[JoinToken, list[Comparison], int]:
        """The token of this key, if the machine may use it; what has to be unchanged for that; and the token's lease.
        Raises ApiError."""
        registry, machine = self._registry, asked.machine
        keys = [
            registry.key(kind, name)
            for kind, name in (
                (JOIN_TOKENS, key),
                (MACHINE_IDENTITIES, machine),
                (MACHINES, machine),
                (SETTINGS, machine),
            )
        ]
        read = {item.key: item for item in (await registry.store.get_many([*keys, registry.history_key])).items}
        item = read.get(keys[0])
        token = JOIN_TOKENS.decode(item) if item else None
        left_s = await registry.store.time_to_live(item.lease) if item else None
        is_known = any(each in read for each in keys[1:]) or await self._was_here(machine)
        refusal = refuse_use(
            token,
            Claim(machine, hash_text(asked.csr), is_known),
            left_s=left_s or 0.0,
            history=_text(read.get(registry.history_key)),
            now_s=self._unix_now(),
        )
        if refusal or token is None or item is None:
            raise ApiError(403, refusal)
        guards: list[Comparison] = [Unchanged(each, read[each].mod_revision if each in read else 0) for each in keys]
        return token, guards, item.lease

    async def _was_here(self, machine: str) -> bool:
        """True for a machine that is off, and was not removed: something of it was written since it was removed last,
        if it ever was. What is older may be left of it for long: a unit stays placed until it is known to be gone."""
        registry = self._registry
        below = await registry.store.range(registry.key(PLACEMENTS, machine) + "/")
        own = await registry.store.get_many([registry.key(kind, machine) for kind in (SYNCED, REBOOTS)])
        left = max((item.create_revision for item in (*below.items, *own.items)), default=0)
        if not left:
            return False
        subject = CertificateIdentity(MACHINE, machine).subject
        revoked = await registry.store.range(registry.key(REVOCATIONS) + "/")
        removed = [item.mod_revision for item in revoked.items if _is_about(item, subject)]
        return left > max(removed, default=0)

    async def _sign(self, trust: Trust, csr: str, machine: str) -> str:
        subject = CertificateIdentity(MACHINE, machine, WORKER)
        now_s = issue_time(subject.subject, await read_revocations(self._registry, trust), self._unix_now())
        return await _refuse_with(403, trust.sign(csr, subject, now_s=now_s))

    async def _check_counts(self, trust: Trust, found: CertificateIdentity) -> None:
        """Raises ApiError for a certificate of a machine that was revoked."""
        if is_revoked(found, await read_revocations(self._registry, trust)):
            raise ApiError(
                403,
                f"machine {found.name} was removed from the cluster (fleetctl machine remove): to join again, it needs "
                "a new token",
            )

    async def _in_turn(self, work: Awaitable[T]) -> T:
        """The result of work in a process, of which strangers have one at a time together. Raises ApiError."""
        if self._waiting >= MAX_WAITING:
            if asyncio.iscoroutine(work):
                work.close()
            raise ApiError(503, _BUSY, (("Retry-After", "1"),))
        self._waiting += 1
        try:
            async with self._turn:
                return await _refuse_with(403, work)
        finally:
            self._waiting -= 1

    async def _servers(self) -> tuple[str, ...]:
        return await find_servers(self._registry)

    async def _history(self) -> str:
        return _text(await self._registry.store.get(self._registry.history_key))


async def find_servers(registry: Registry) -> tuple[str, ...]:
    """The https URLs of the servers, in order of their ids."""
    return tuple(url for machine in (await registry.machines()).values() if (url := https_url(machine)))


def _is_about(item: KeyValue, subject: str) -> bool:
    try:
        return REVOCATIONS.decode(item).subject == subject
    except MalformedRecord:
        return False


def _text(item: KeyValue | None) -> str:
    return item.value.decode(errors="replace") if item else ""


def _parse_join(body: bytes) -> schema.JoinRequest:
    """The body. Unlike in other requests, case counts: keys of metadata are as units ask for them. Raises ApiError."""
    try:
        return msgspec.json.decode(body, type=schema.JoinRequest)
    except (RecursionError, *UNREADABLE) as error:
        raise ApiError(400, f"unable to decode body: {error}") from error


def _check_newcomer(asked: schema.JoinRequest) -> MachineIdentity:
    """The record of a worker that says this of itself, without what the token says. Raises ApiError."""
    if len(asked.csr) > MAX_REQUEST:
        raise ApiError(400, f"csr has more than {MAX_REQUEST} characters")
    refusal = refuse_machine_id(asked.machine) or refuse_newcomer(asked.address, asked.metadata)
    if refusal:
        raise ApiError(400, refusal)
    host_keys = parse_public_keys(asked.host_keys)
    return MachineIdentity(WORKER, asked.address, asked.metadata, host_keys)


async def _refuse_with(status: int, work: Awaitable[T]) -> T:
    """The result of the work; its ValueError becomes an ApiError."""
    try:
        return await work
    except ValueError as error:
        raise ApiError(status, str(error)) from error
    except SigningFailed as error:
        raise ApiError(503, f"cannot sign: {error}") from error
