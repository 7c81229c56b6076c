"""Which units a change of the cluster affects: those whose plan may differ after it.

Each function makes one change in a snapshot and returns what that affects. The rules may name too many units, never too
few: planning the affected units has to give what planning all of them gives.
"""

import msgspec

from fleetd.model.announcement import NOT_SETTLED, ServiceRecord
from fleetd.model.certificate import WORKER
from fleetd.model.cluster_settings import ClusterSettings
from fleetd.model.constraints import Requirements
from fleetd.model.job_result import WAITS_FOR_LOCK
from fleetd.model.machine import Machine, MachineSettings
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.move import Move
from fleetd.model.ordered import Names, mark, set_or_delete
from fleetd.model.placement import Decision, Placement
from fleetd.model.quota import Usage
from fleetd.model.reboot import Reboot, RebootRequest
from fleetd.model.rollout import Apply, Command, Rollout
from fleetd.model.secret import SealedSecret, Secret
from fleetd.model.unit import Unit, UnitState
from fleetd.scheduler.relations import joined_with, restarted_along
from fleetd.scheduler.snapshot import Snapshot


class Affected(msgspec.Struct):
    """Units that are affected: `units` wherever they are, `on_machines` those that are on many machines, as (unit,
    machine)."""

    units: Names = {}
    on_machines: dict[tuple[str, str], None] = {}

    def __len__(self) -> int:
        return len(self.units) + len(self.on_machines)

    def __ior__(self, other: "Affected") -> "Affected":
        self.units |= other.units
        self.on_machines |= other.on_machines
        return self

    def scopes(self) -> dict[str, Names | None]:
        """The machines to decide about, by unit; None: all."""
        scopes: dict[str, Names | None] = dict(self.units)
        for name, machine in self.on_machines:
            scope = scopes.setdefault(name, {})
            if scope is not None:
                scope[machine] = None
        return scopes


# Changes of records; None deletes one. A name that cannot be a unit's is passed over.


def set_unit(snapshot: Snapshot, name: str, unit: Unit | None) -> Affected:
    """Affects the unit, its peers, and the template or the sockets that it belongs with, as before and as after."""
    if not has_suffix(name):
        return Affected()
    names = {name: None} | _joined_with(snapshot, name)
    snapshot.set_unit(name, unit)
    return Affected(names | _joined_with(snapshot, name))


def set_placement(snapshot: Snapshot, machine: str, name: str, placement: Placement | None) -> Affected:
    """Affects the unit and its peers, the units on the machine that have to do with each other, those that it conflicts
    with, and, since there may be room now, those that wait for room."""
    if not has_suffix(name):
        return Affected()
    names = {name: None} | snapshot.colocated_with(name) | _neighbours(snapshot, machine)
    if name in snapshot.units and snapshot.requirements(name).template:
        names[snapshot.requirements(name).template] = None
    if machine in snapshot.placements.get(name, {}):
        names |= _movable(snapshot)
    snapshot.set_placement(machine, name, placement)
    requirements = snapshot.occupancy(machine).units.get(name)
    if requirements is not None:
        names |= _newly_conflicting(snapshot, name, requirements)
    return _narrow(snapshot, machine, names | _neighbours(snapshot, machine))


def set_state(snapshot: Snapshot, machine: str, name: str, state: UnitState | None) -> Affected:
    """Affects the unit, those that are restarted with it, and those that it replaces, which wait for what it needs, if
    anything that the leader decides by is different."""
    if not has_suffix(name):
        return Affected()
    former = snapshot.states.get(name, {}).get(machine)
    snapshot.set_state(machine, name, state)
    if _relevant(former) == _relevant(state) and not _is_superseded(snapshot, name):
        return Affected()
    names = {name: None} | restarted_along(snapshot, name, machine)
    here = snapshot.occupancy(machine)
    if name in here.units and here.units[name].replaces and here.units[name].downloads:
        names |= here.staying
    return _narrow(snapshot, machine, names)


def set_decision(snapshot: Snapshot, name: str, decision: Decision | None) -> Affected:
    """Affects the unit if its decision is gone: the leader alone writes decisions."""
    if not has_suffix(name):
        return Affected()
    former = snapshot.decisions.get(name)
    snapshot.set_decision(name, decision)
    if decision is not None:
        return Affected()
    return Affected({name: None} | (_movable(snapshot) if former is not None and former.target else {}))


def set_machine(snapshot: Snapshot, machine: str, record: Machine | None) -> Affected:
    """Affects what is on the machine and what might come or leave, if it changes what the scheduler goes by."""
    former, former_session = snapshot.effective.get(machine), _session(snapshot, machine)
    snapshot.set_machine(machine, record)
    if snapshot.effective.get(machine) == former and _session(snapshot, machine) == former_session:
        return Affected()
    return touch_machine(snapshot, machine)


def set_settings(snapshot: Snapshot, machine: str, settings: MachineSettings | None) -> Affected:
    """As set_machine."""
    former = snapshot.effective.get(machine)
    snapshot.set_settings(machine, settings)
    return Affected() if snapshot.effective.get(machine) == former else touch_machine(snapshot, machine)


def set_cluster_settings(snapshot: Snapshot, settings: ClusterSettings | None) -> Affected:
    """Affects the units that wait, or run on, by the clock: those on absent machines and on machines that are switched
    off, and those with superseded allocations."""
    snapshot.cluster_settings = settings or ClusterSettings()
    names = dict.fromkeys(name for _, name in snapshot.superseded)
    switched_off = [machine for machine, effective in snapshot.effective.items() if effective.may_return]
    for machine in (*snapshot.absent(), *switched_off):
        names |= snapshot.placed_on.get(machine, {})
    return Affected(names)


def set_session(snapshot: Snapshot, machine: str, session: str | None) -> Affected:
    """Set the session in which a machine was planned for. Affects no unit."""
    snapshot.set_session(machine, session)
    return Affected()


def set_usage(snapshot: Snapshot, usage: Usage | None) -> Affected:
    """Set the usage as it was stored last. Affects no unit."""
    snapshot.usage = usage
    return Affected()


def set_rollout(snapshot: Snapshot, group: str, rollout: Rollout | None) -> Affected:
    """Affects the units that the rollout changes."""
    snapshot.set_rollout(group, rollout)
    return Affected(dict(snapshot.rolling.get(group, {})))


def set_command(snapshot: Snapshot, group: str, command: Command | None) -> Affected:
    """As set_rollout."""
    set_or_delete(snapshot.commands, group, command)
    return Affected(dict(snapshot.rolling.get(group, {})))


def set_apply(snapshot: Snapshot, rollout: str, apply: Apply | None) -> Affected:
    """Affects the units that waited for the request to be complete."""
    set_or_delete(snapshot.applies, rollout, apply)
    return Affected(dict(snapshot.units_of_rollout.get(rollout, {})))


def set_move(snapshot: Snapshot, name: str, move: Move | None) -> Affected:
    """Affects the unit, and those that move with it."""
    if not has_suffix(name):
        return Affected()
    set_or_delete(snapshot.moves, name, move)
    return Affected({name: None} | joined_with(snapshot, name))


def set_reboot_request(snapshot: Snapshot, machine: str, request: RebootRequest | None) -> Affected:
    """Affects no unit before the machine has its turn."""
    set_or_delete(snapshot.reboot_requests, machine, request)
    return Affected()


def set_reboot(snapshot: Snapshot, machine: str, reboot: Reboot | None) -> Affected:
    """Affects what is on the machine and what might come or leave, if the cordon changes or what the units there wait
    for."""
    former, former_effective = snapshot.reboots.get(machine), snapshot.effective.get(machine)
    snapshot.set_reboot(machine, reboot)
    is_same_wait = (former.kept_until if former else 0.0) == (reboot.kept_until if reboot else 0.0)
    if snapshot.effective.get(machine) == former_effective and is_same_wait:
        return Affected()
    return touch_machine(snapshot, machine)


def set_secret(snapshot: Snapshot, name: str, secret: Secret | None) -> Affected:
    """Affects the units that name it, if it came or went: a new version reaches what runs by restarts alone."""
    had = name in snapshot.secrets
    snapshot.set_secret(name, secret)
    return Affected() if had == (secret is not None) else Affected(dict(snapshot.secret_users.get(name, {})))


def set_sealed_secret(snapshot: Snapshot, machine: str, name: str, sealed: SealedSecret | None) -> Affected:
    """Set what is sealed of a secret for a machine. Affects no unit."""
    snapshot.set_sealed_secret(machine, name, sealed)
    return Affected()


def set_service(snapshot: Snapshot, service: str, machine: str, unit: str, record: ServiceRecord | None) -> Affected:
    """Set what a unit announces on a machine. Affects no unit."""
    announced = dict(snapshot.announced.get(machine, {}))
    mark(announced, (service, unit), record is not None)
    snapshot.set_announced(machine, announced)
    return Affected()


def forget_services(snapshot: Snapshot, machine: str) -> None:
    """The machine announces nothing any more."""
    snapshot.set_announced(machine, None)


def set_identity(snapshot: Snapshot, machine: str, identity: MachineIdentity | None) -> Affected:
    """Set what was recorded of a machine when it joined. Affects no unit."""
    mark(snapshot.workers, machine, identity is not None and identity.role == WORKER)
    snapshot.sealing_is_due = True
    return Affected()


# Changes of what the leader has observed.


def set_away(snapshot: Snapshot, away: frozenset[str]) -> Affected:
    """Say which of the absent machines may be alive."""
    affected = Affected()
    for machine in snapshot.away ^ away:
        affected |= touch_machine(snapshot, machine)
    snapshot.away = away
    return affected


def touch_machine(snapshot: Snapshot, machine: str) -> Affected:
    """What any change of this machine affects: what is there, and what might come or leave."""
    there = snapshot.placed_on.get(machine, {}) | snapshot.reported_by.get(machine, {})
    return _narrow(snapshot, machine, there | _movable(snapshot))


# The rules.


def _narrow(snapshot: Snapshot, machine: str, names: Names) -> Affected:
    """These units are affected by something on this machine: global ones on this machine alone."""
    on_machines: dict[tuple[str, str], None] = {}
    for name in [name for name in snapshot.global_units if name in names]:
        del names[name]
        on_machines[name, machine] = None
    return Affected(names, on_machines)


def _joined_with(snapshot: Snapshot, name: str) -> Names:
    """The units that MachineOf= or a socket's template joins to this one."""
    joined = snapshot.colocated_with(name) | snapshot.sockets(name)
    template = snapshot.requirements(name).template if name in snapshot.units else ""
    return joined | {template: None} if template else joined


def _movable(snapshot: Snapshot) -> Names:
    """The units that may move as soon as there is room: unplaced ones, global ones, and those beside a unit with
    Replaces=."""
    movable = snapshot.unplaced | snapshot.global_units
    for machine in snapshot.with_replacers:
        movable |= snapshot.occupancies[machine].staying
    return movable


def _neighbours(snapshot: Snapshot, machine: str) -> Names:
    """The units on a machine that are affected when its units change."""
    superseded = {name: None for where, name in snapshot.superseded if where == machine}
    occupancy = snapshot.occupancy(machine)
    return superseded | dict.fromkeys(occupancy.units) if occupancy.has_patterns() else superseded


def _newly_conflicting(snapshot: Snapshot, name: str, requirements: Requirements) -> Names:
    """The rejected units that this one conflicts with: their count of rejections changes."""
    return {
        other: None
        for other in snapshot.rejected
        if other in snapshot.units
        and (requirements.conflicts.match(other) or snapshot.requirements(other).conflicts.match(name))
    }


def _relevant(state: UnitState | None) -> tuple[object, ...] | None:
    """The parts of a state that the leader decides by."""
    if state is None:
        return None
    failed = state.active == "failed" or bool(state.error)
    kept = (state.orphan, state.outdated)
    done = (state.target, state.generation, state.completed)
    answers = (state.prepared, state.proof, state.hash if state.result == WAITS_FOR_LOCK else "")
    names = (state.unannounced != "", state.unannounced == NOT_SETTLED)
    return (state.runs, state.active == "active", failed, done, kept, state.refusal, answers, names)


def _is_superseded(snapshot: Snapshot, name: str) -> bool:
    """True while an allocation of the unit waits for its replacement, whose every step counts."""
    return any(placement.superseded for placement in snapshot.placements.get(name, {}).values())


def _session(snapshot: Snapshot, machine: str) -> str | None:
    record = snapshot.machines.get(machine)
    return record.session if record else None


def has_suffix(name: str) -> bool:
    """True if this can be the name of a unit."""
    return "." in name
