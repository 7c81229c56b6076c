"""The removal of a machine from the cluster: its certificates do not count any more."""

import asyncio
from collections.abc import Callable

from fleetd.api import schema
from fleetd.api.http import ApiError, Request, Response, parse_json
from fleetd.api.trust import Trust, read_revocations
from fleetd.model.certificate import MACHINE, CertificateIdentity, revoke
from fleetd.model.event import ClusterEvent, EventKind
from fleetd.model.join_token import JoinToken, refuse_machine_id
from fleetd.model.machine import Machine, MachineMode
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.unit import UnitState
from fleetd.registry.records import (
    JOIN_TOKENS,
    LEADER,
    MACHINE_IDENTITIES,
    MACHINES,
    REBOOT_REQUESTS,
    REVOCATIONS,
    SETTINGS,
    STATES,
)
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet, cut_into_transactions
from fleetd.store.protocol import MAX_OPERATIONS, Conflict, Delete, KeyValue, Unchanged

NOTICED_S = 1.0  # servers close the connections of a revoked machine within this time
_NAMED = 3  # units
_ATTEMPTS = 5  # while others revoke certificates


class Removals:
    """The resource. `trust` is None where fleetd has no authority; `machine()` is this machine, `unix_now` the wall
    clock."""

    def __init__(
        self,
        registry: Registry,
        trust: Trust | None,
        machine: Callable[[], Machine],
        unix_now: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._trust = trust
        self._machine = machine
        self._unix_now = unix_now

    async def post(self, request: Request, id_: str) -> Response:
        """Remove a machine: its certificates count no more, its connections end, and its units, with `force`, start
        elsewhere. 409 while units run there, unless `force`, and while the fleetd of a server runs."""
        force = parse_json(request.body, schema.MachineRemoval).force
        if id_ == self._machine().id:
            raise ApiError(409, "it is the machine that is asked, which cannot remove itself: ask another one")
        reader = self._registry.at_one_revision()
        identity = (await reader.get_many(MACHINE_IDENTITIES, [(id_,)])).get((id_,))
        machine = (await reader.get_many(MACHINES, [(id_,)])).get((id_,))
        if refusal := refuse_machine_id(id_):
            raise ApiError(400, refusal)
        if not force and not identity and not await reader.known_machines([id_]):
            raise ApiError(
                404,
                "unknown machine: give the full id of one that is or was in the cluster; --force revokes the "
                "certificates of a server that has left",
            )
        leader = (await reader.get_many(LEADER, [()])).get(())
        _check_left(machine, identity, leads=leader is not None and leader.machine == id_)
        if not force:
            _check_idle(await reader.states(id_))
        await self._revoke(id_, request.user)
        await self._end_leases(id_)
        await asyncio.sleep(NOTICED_S)  # until then another server may have let it register again
        await self._end_leases(id_)
        return Response(204)

    async def _end_leases(self, id_: str) -> None:
        """End every lease that it holds, so that its key and its states go, and it counts as dead: its certificate no
        longer lets it do that itself, and it may have asked for years."""
        registry = self._registry
        granted = await registry.store.range(registry.leases_prefix)
        leases = {int(item.key.rpartition("/")[2]) for item in granted.items if item.value == id_.encode()}
        states = await registry.store.range(registry.key(STATES, id_) + "/")
        machine = await registry.store.get_many([registry.key(MACHINES, id_)])
        leases |= {item.lease for item in (*states.items, *machine.items) if item.lease}
        for lease in sorted(leases):
            await registry.store.revoke(lease)

    async def _revoke(self, id_: str, by: str) -> None:
        """Revoke its certificates, and delete its records and the tokens for it, as they were read: the machine may be
        joining again."""
        registry = self._registry
        subject = CertificateIdentity(MACHINE, id_).subject
        for _ in range(_ATTEMPTS):
            former = await read_revocations(registry, self._trust)
            number = 1 + max((each.number for each in former), default=0)
            left = ClusterEvent(EventKind.LEFT, machine=id_, by=by)
            revocation = revoke(number, subject, by, self._unix_now(), former)
            key = registry.key(REVOCATIONS, str(number))
            revoked = WriteSet((Unchanged(key, 0),), (registry.put(revocation, str(number)),), (left,))
            deleted = [
                WriteSet((Unchanged(item.key, item.mod_revision),), (Delete(item.key),))
                for item in await self._records_of(id_)
            ]
            try:
                for each in cut_into_transactions([revoked, *deleted], record=registry.record):
                    await registry.store.transact(each.comparisons, each.operations)
            except Conflict:
                continue
            return
        raise ApiError(
            409, "others change the records of this machine, or revoke certificates, all the time: try again"
        )

    async def _records_of(self, id_: str) -> list[KeyValue]:
        """What the cluster knows of a machine that may join again, and the tokens that are for it, or that it used."""
        registry = self._registry
        tokens = await registry.read(JOIN_TOKENS)
        keys = [registry.key(kind, id_) for kind in (MACHINE_IDENTITIES, SETTINGS, REBOOT_REQUESTS)]
        keys += [registry.key(JOIN_TOKENS, *names) for names in tokens if id_ in _machines_of(tokens[names])]
        found: list[KeyValue] = []
        for start in range(0, len(keys), MAX_OPERATIONS):
            found += (await registry.store.get_many(keys[start : start + MAX_OPERATIONS])).items
        return found


def _machines_of(token: JoinToken) -> tuple[str, str]:
    return token.machine, token.used_by


def _check_idle(states: dict[tuple[str, str], UnitState]) -> None:
    """Raises ApiError while units run on the machine."""
    running = sorted(unit for (_, unit), state in states.items() if state.runs)
    if running:
        more = f" and {len(running) - _NAMED} more" if len(running) > _NAMED else ""
        raise ApiError(
            409,
            f"units run there: {', '.join(running[:_NAMED])}{more}; fleetctl drain --globals takes them off it, and "
            "--force removes it as it is: they start elsewhere, whether or not it stops them",
        )


def _check_left(machine: Machine | None, identity: MachineIdentity | None, *, leads: bool) -> None:
    """Raises ApiError while the fleetd of a server runs: it reaches etcd by itself, and would be back at once."""
    if machine is None or machine.mode is MachineMode.PARKED or machine.is_worker or identity is not None:
        return
    what = "it is a server, and leads the cluster" if leads else "it is a server, and its fleetd runs"
    raise ApiError(
        409,
        f"{what}: it reaches etcd by itself, and would be back at once. Run `fleetd leave` there; if it is in other "
        "hands, cut it off. When list-machines does not show it any more, remove it with --force",
    )
