"""Rollouts in version 2: how far the changes of each group have got, and what operators say about them."""

from collections.abc import Awaitable, Callable, Collection

import msgspec

from fleetd.api import schema
from fleetd.api.audit import Audit, asked_unit
from fleetd.api.capabilities import check_capability
from fleetd.api.http import ApiError, Request, Response, parse_json, render_json
from fleetd.api.v2.rollout_reports import describe_rollout, find_awaited_groups, rolling_units
from fleetd.model.actor import Actor
from fleetd.model.event import ClusterEvent, EventKind
from fleetd.model.group import group_of
from fleetd.model.machine import Capability
from fleetd.model.permission import Permission
from fleetd.model.placement import Decision
from fleetd.model.rollout import Action, Apply, Command, Phase
from fleetd.model.unit import TargetState, Unit
from fleetd.registry.records import APPLIES, COMMANDS, DECISIONS, PLACEMENTS, ROLLOUTS, STATES, UNITS
from fleetd.registry.registry import Reader, Registry
from fleetd.registry.transactions import WriteSet, cut_into_transactions
from fleetd.scheduler.snapshot import Snapshot
from fleetd.store.protocol import Conflict

RESTART, UNDO = "restart", "undo"
ACTIONS = (*Action, RESTART, UNDO)
ATTEMPTS = 5  # of a restart, while others write the same units


class Rollouts:
    """The resource. `undo(group, version, actor)` applies an earlier version of a group. `unix_now` is the wall clock,
    `new_id` returns a unique word."""

    def __init__(
        self,
        registry: Registry,
        undo: Callable[[str, int, Actor], Awaitable[None]],
        audit: Audit,
        unix_now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._registry = registry
        self._undo = undo
        self._audit = audit
        self._unix_now = unix_now
        self._new_id = new_id

    async def get_all(self, request: Request, _: str) -> Response:
        """Report rollouts: those of the groups that the query names, or all."""
        reader = self._registry.at_one_revision()
        named = [group_of(name) for name in request.query_values("group")]
        rollouts = {names[0]: record for names, record in (await reader.read(ROLLOUTS)).items()}
        snapshot = Snapshot()
        snapshot.rollouts |= {group: record for group, record in rollouts.items() if not named or group in named}
        await _read_groups(reader, snapshot, named or [g for g, record in rollouts.items() if not record.is_over])
        groups = sorted({*named, *snapshot.rollouts})
        awaited = find_awaited_groups(snapshot, rollouts)
        if awaited:
            snapshot.rollouts |= {group: rollouts[group] for group in awaited}
            await _read_groups(reader, snapshot, awaited)
        found = (describe_rollout(snapshot, group) for group in groups)
        return render_json(schema.Rollouts(tuple(filter(None, found))))

    async def post(self, request: Request, name: str) -> Response:
        """Pause, resume or continue the rollout of a group, restart its units one after the other, or give them the
        content of an earlier version."""
        asked = parse_json(request.body, schema.RolloutCommand)
        action = asked.action
        if action not in ACTIONS:
            raise ApiError(400, f'invalid action "{action}": expect {", ".join(ACTIONS)}')
        group = group_of(name)
        request.check_permission(Permission.OPERATE, [group])
        if action == RESTART:
            await self.restart(group, request.actor)
        elif action == UNDO:
            await self._undo(group, asked.to, request.actor)
        else:
            await self._command(group, Action(action), request.user)
            self._audit.note_request(request)
        return Response(204)

    async def _command(self, group: str, action: Action, user: str) -> None:
        """Write what the leader is to do about the rollout of a group. Raises ApiError where that has no meaning."""
        snapshot = await self._read(group)
        rollout = describe_rollout(snapshot, group)
        if rollout is None:
            raise ApiError(409, f"{group} has no rollout: nothing of it is being changed one after the other")
        if rollout.phase in (Phase.DONE, Phase.REVERTED):
            raise ApiError(409, f"the rollout of {group} is over: {rollout.status}")
        if action is Action.CONTINUE and not snapshot.group_options(group).canary:
            raise ApiError(409, f"the rollout of {group} has no canaries (UpdateCanary=) to go on past")
        command = Command(self._new_id(), action, rollout.id, user, self._unix_now())
        asked = ClusterEvent(EventKind.ASKED, subject=group, by=user, action=action, id=rollout.id)
        await self._registry.write(WriteSet((), (self._registry.put(command, group),), (asked,)))

    async def restart(self, group: str, actor: Actor) -> None:
        """Write the launched units of a group so that they are restarted one after the other. Raises ApiError."""
        request = Apply(actor.name, self._unix_now())
        id_ = self._new_id()
        for _ in range(ATTEMPTS):
            snapshot = await self._read(group)
            launched = _find_restartable(snapshot, group, id_)
            await check_capability(self._registry, Capability.PROOFS)
            changed = [(unit, _restarted(unit, id_, request)) for unit in launched if unit.rollout != id_]
            steps = (
                self._registry.unit_write_set(unit.name, unit, after, asked_unit(actor, unit, after))
                for unit, after in changed
            )
            changes = {self._registry.key(UNITS, unit.name): (unit, after) for unit, after in changed}
            try:
                for transaction in cut_into_transactions(steps, record=self._registry.record):
                    revision = await self._registry.write(transaction)
                    self._audit.note_transaction(actor, changes, transaction, revision)
            except Conflict:
                continue
            # Last, so that nothing is restarted of a request that was not written completely.
            await self._registry.write(WriteSet((), (self._registry.put(request, id_),)))
            return
        raise ApiError(409, f"units of {group} are being changed by others at the same time: try again")

    async def _read(self, group: str) -> Snapshot:
        """What is known of one group. Raises ApiError if it is unknown."""
        reader = self._registry.at_one_revision()
        snapshot = Snapshot()
        snapshot.rollouts |= {
            names[0]: record for names, record in (await reader.get_many(ROLLOUTS, [(group,)])).items()
        }
        await _read_groups(reader, snapshot, [group])
        if not snapshot.units and not snapshot.rollouts:
            raise ApiError(404, f"unknown group {group}: there is no unit of this name, and no instance of it")
        return snapshot


def _find_restartable(snapshot: Snapshot, group: str, id_: str) -> list[Unit]:
    """The launched units of a group, for the rollout of this id. Raises ApiError if they cannot be restarted now."""
    rollout = describe_rollout(snapshot, group)
    launched = [unit for unit in snapshot.units.values() if unit.target is TargetState.LAUNCHED]
    is_complete = all(unit.rollout in snapshot.applies for unit in rolling_units(snapshot, group))
    if rollout is not None and rollout.id != id_ and rollout.phase not in (Phase.DONE, Phase.REVERTED) and is_complete:
        raise ApiError(409, f"a rollout of {group} is not over ({rollout.status}): wait for its end")
    if not launched:
        raise ApiError(409, f"no unit of {group} is launched, so there is nothing to restart: start it instead")
    for unit in launched:
        placements = snapshot.placements.get(unit.name, {}).values()
        if any(placement.is_active and placement.content != unit.content for placement in placements):
            why = f": its rollout is {rollout.status}" if rollout else ""
            raise ApiError(
                409,
                f"{unit.name} runs another content than was asked for last{why}. A restart would change it: apply what "
                "it is to run",
            )
    return launched


def _restarted(unit: Unit, id_: str, asked: Apply) -> Unit:
    return msgspec.structs.replace(unit, restart_of=unit.generation, rollout=id_, by=asked.by, note="", at=asked.at)


async def _read_groups(reader: Reader, snapshot: Snapshot, groups: Collection[str]) -> None:
    """Add to the snapshot what is known of these groups: units, where they are, and what machines report."""
    units = await reader.units_of_groups(groups)
    for name, unit in units.items():
        snapshot.set_unit(name, unit)
    snapshot.commands |= {names[0]: found for names, found in (await reader.get_many(COMMANDS, _keys(groups))).items()}
    requests = _keys({unit.rollout for unit in units.values() if unit.rollout})
    snapshot.applies |= {names[0]: found for names, found in (await reader.get_many(APPLIES, requests)).items()}
    for id_, machine in (await reader.machines()).items():
        snapshot.set_machine(id_, machine)
    for id_, settings in (await reader.settings()).items():
        snapshot.set_settings(id_, settings)
    decisions = {names[0]: found for names, found in (await reader.get_many(DECISIONS, _keys(units))).items()}
    for name, decision in decisions.items():
        snapshot.set_decision(name, decision)
    allocations = [key for name in units for key in _find_allocations(name, decisions.get(name), snapshot)]
    for (id_, name), placement in (await reader.get_many(PLACEMENTS, allocations)).items():
        snapshot.set_placement(id_, name, placement)
    for (id_, name), state in (await reader.get_many(STATES, allocations)).items():
        snapshot.set_state(id_, name, state)


def _keys(names: Collection[str]) -> list[tuple[str]]:
    return [(name,) for name in sorted(names)]


def _find_allocations(name: str, decision: Decision | None, snapshot: Snapshot) -> list[tuple[str, str]]:
    """(machine, unit) of the allocations that a unit may have: a global one on each machine."""
    if name in snapshot.global_units or (decision is not None and decision.machines):
        return [(machine, name) for machine in snapshot.machines]
    return [(decision.machine, name)] if decision is not None and decision.machine else []
