"""Secrets in version 2: set, list, remove. No answer and no log has a value."""

from collections.abc import Awaitable, Callable, Collection, Mapping

from fleetd.api import schema
from fleetd.api.audit import Audit, asked_of
from fleetd.api.capabilities import refuse_outdated
from fleetd.api.http import ApiError, Request, Response, parse_json, render_json
from fleetd.model.actor import Actor
from fleetd.model.certificate import WORKER
from fleetd.model.group import group_of
from fleetd.model.machine import Capability
from fleetd.model.permission import Permission
from fleetd.model.reason import MissingSecrets
from fleetd.model.requirements import placed_requirements
from fleetd.model.secret import (
    Secret,
    SecretVersion,
    next_version,
    refuse_secret_name,
    refuse_secret_value,
    with_previous,
    with_version,
)
from fleetd.model.unit import TargetState, Unit
from fleetd.registry.records import MACHINE_IDENTITIES, SEALED_SECRETS, SECRETS
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet, cut_into_transactions
from fleetd.scheduler.sealing import find_openers
from fleetd.store.protocol import Conflict, Delete, Unchanged
from fleetd.trust.sealing_process import Sealing, SealingFailed

ATTEMPTS = 5  # of a change, while others write the same secret
SHOWN_UNITS = 5

RestartGroup = Callable[[str, Actor], Awaitable[None]]


class Secrets:
    """The resource. `restart(group, actor)` restarts the units of a group one after the other; `sealing` is None where
    this machine has no key for secrets. `unix_now` is the wall clock."""

    def __init__(
        self,
        registry: Registry,
        sealing: Sealing | None,
        restart: RestartGroup,
        audit: Audit,
        unix_now: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._sealing = sealing
        self._restart = restart
        self._audit = audit
        self._unix_now = unix_now

    async def get_all(self, _: Request, __: str) -> Response:
        """List the secrets with the units that name them, without their values."""
        reader = self._registry.at_one_revision()
        found = {name: secret.without_values() for (name,), secret in (await reader.read(SECRETS)).items()}
        users = _find_users(await reader.units()) if found else {}
        reports = (_describe(name, found[name], tuple(users.get(name, ()))) for name in sorted(found))
        return render_json(schema.SecretReports(tuple(reports)))

    async def put(self, request: Request, name: str) -> Response:
        """Set a secret, or go back to the version before, and restart the units that run with it."""
        _check(request, name)
        asked = parse_json(request.body, schema.SecretChange)
        if asked.previous and asked.value:
            raise ApiError(400, "either give a value, or ask for the previous version")
        if not asked.previous and (refusal := refuse_secret_value(asked.value)):
            raise ApiError(400, f"secret {name}: {refusal}")
        waiting = await self._find_waiting()
        version = await self._change(name, asked, request.user)
        self._audit.note_request(request)
        restarting, unrestarted = await self._restart_users(name, request.actor, waiting)
        return render_json(schema.SecretChanged(name, version, restarting, unrestarted))

    async def delete(self, request: Request, name: str) -> Response:
        """Remove a secret. Unless the query says force=true, no unit may name it."""
        _check(request, name)
        secret = (await self._registry.get_many(SECRETS, [(name,)])).get((name,))
        if secret is None:
            raise ApiError(404, f"there is no secret {name}")
        users = _find_users(await self._registry.units()).get(name, [])
        if users and "true" not in request.query_values("force"):
            more = f" and {len(users) - SHOWN_UNITS} more" if len(users) > SHOWN_UNITS else ""
            raise ApiError(
                409,
                f"the secret {name} is named by {', '.join(users[:SHOWN_UNITS])}{more}: destroy or change them first. "
                "If it is removed by force, they run on, and start neither on another machine nor after a reboot",
            )
        guard = Unchanged(self._registry.key(SECRETS, name), secret.revision)
        sealed = [names for names in await self._registry.read(SEALED_SECRETS) if names[1] == name]
        event = asked_of(request.user, "remove-secret", name)
        # The secret first: nothing is sealed any more after that.
        write_sets = [WriteSet((guard,), (Delete(guard.key),), (event,))]
        write_sets += [WriteSet((), (Delete(self._registry.key(SEALED_SECRETS, *names)),)) for names in sealed]
        try:
            for transaction in cut_into_transactions(write_sets, record=self._registry.record):
                await self._registry.write(transaction)
        except Conflict as error:
            raise ApiError(409, f"the secret {name} was changed meanwhile: look at it, and try again") from error
        self._audit.note_request(request)
        return Response(204)

    async def _find_waiting(self) -> set[str]:
        """The units that wait for a secret: they are started when it has come, and need no restart."""
        decisions = await self._registry.decisions()
        return {name for name, decision in decisions.items() if isinstance(decision.reason, MissingSecrets)}

    async def _change(self, name: str, asked: schema.SecretChange, by: str) -> int:
        """Write a version. Returns its number. Raises ApiError."""
        for _ in range(ATTEMPTS):
            reader = self._registry.at_one_revision()
            before = (await reader.get_many(SECRETS, [(name,)])).get((name,))
            after = await self._go_back(name, before) if asked.previous else await self._add(name, before, asked, by)
            guard = Unchanged(self._registry.key(SECRETS, name), before.revision if before else 0)
            try:
                event = asked_of(by, "set-secret", name)
                await self._registry.write(WriteSet((guard,), (self._registry.put(after, name),), (event,)))
            except Conflict:
                continue
            return after.present.number
        raise ApiError(409, f"the secret {name} is being changed by others at the same time: try again")

    async def _go_back(self, name: str, before: Secret | None) -> Secret:
        if before is None:
            raise ApiError(409, f"there is no secret {name}")
        if len(before.versions) < 2:
            raise ApiError(409, f"the secret {name} has no version before the present one")
        return with_previous(before)

    async def _add(self, name: str, before: Secret | None, asked: schema.SecretChange, by: str) -> Secret:
        machines = await self._registry.machines()
        refuse_outdated(machines.values(), Capability.SECRETS)
        identities = await self._registry.read(MACHINE_IDENTITIES)
        workers = {machine for (machine, *_), identity in identities.items() if identity.role == WORKER}
        recipients = find_openers(machines, workers)
        if self._sealing is None or not recipients:
            raise ApiError(409, "no machine has a key for secrets yet; fleetd makes one when systemd starts it first")
        number = next_version(before, await self._registry.store.revision())
        try:
            sealed = await self._sealing.encrypt(name, number, asked.value, recipients)
        except SealingFailed as error:
            raise ApiError(500, f"the secret {name} cannot be sealed: {error}") from error
        version = SecretVersion(number, sealed.box, sealed.keys, len(asked.value), by, self._unix_now())
        return with_version(before, version)

    async def _restart_users(
        self, name: str, actor: Actor, waiting: Collection[str]
    ) -> tuple[tuple[str, ...], tuple[schema.UnrestartedGroup, ...]]:
        """Restart the launched units that name a secret, but those that have waited for it. Returns the groups, and
        those that are not restarted."""
        units = await self._registry.units()
        launched = {unit: units[unit] for unit in units if units[unit].target is TargetState.LAUNCHED}
        users = _find_users(launched).get(name, [])
        restarting, unrestarted = [], []
        for group in sorted({group_of(unit) for unit in users if unit not in waiting}):
            refusal = actor.refuse(Permission.OPERATE, [group])
            try:
                if not refusal:
                    await self._restart(group, actor)
            except ApiError as error:
                refusal = str(error)
            if refusal:
                unrestarted.append(schema.UnrestartedGroup(group, refusal))
            else:
                restarting.append(group)
        return tuple(restarting), tuple(unrestarted)


def _check(request: Request, name: str) -> None:
    """Raises ApiError for a name that no secret has, and for those who may not change it."""
    request.check_permission(Permission.SUBMIT, [name])
    if refusal := refuse_secret_name(name):
        raise ApiError(400, refusal)


def _find_users(units: Mapping[str, Unit]) -> dict[str, list[str]]:
    """The units that name each secret, in order."""
    users: dict[str, list[str]] = {}
    for name in sorted(units):
        for secret in placed_requirements(units[name].content, name).secrets:
            users.setdefault(secret, []).append(name)
    return users


def _describe(name: str, secret: Secret, users: tuple[str, ...]) -> schema.SecretReport:
    version = secret.present
    previous = secret.versions[-2].number if len(secret.versions) > 1 else 0
    return schema.SecretReport(name, version.number, previous, version.size, version.by, version.at, users)
