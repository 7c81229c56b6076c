"""One snapshot of the cluster: its records, and indexes over them.

affected.py updates it record by record and says which units each update affects, so that a plan need not look at all
units. A plan only reads it: what it changes is laid over it in a Proposal.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from fleetd.model.cluster_settings import ClusterSettings
from fleetd.model.confinement import NO_LIMITS, Limits, limits_of, refuse
from fleetd.model.constraints import Requirements
from fleetd.model.group import GroupOptions, group_of
from fleetd.model.machine import DrainRequest, Machine, MachineSettings
from fleetd.model.move import Move
from fleetd.model.names import is_template, template_of
from fleetd.model.ordered import Names, Ordered, mark, set_or_delete
from fleetd.model.placement import Decision, Placement
from fleetd.model.quota import Usage, size_of
from fleetd.model.reboot import Reboot, RebootRequest
from fleetd.model.requirements import earlier_units, group_options_of, placed_requirements
from fleetd.model.rollout import Apply, Command, Phase, Rollout
from fleetd.model.secret import SealedSecret, Secret, SecretRef
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.scheduler.allocation_state import Presence
from fleetd.scheduler.effective_machine import EffectiveMachine, drain_of, effective_machine
from fleetd.scheduler.machine_index import MachineIndex
from fleetd.scheduler.occupancy import Occupancy
from fleetd.scheduler.reboot_policy import StoreHealth

R = TypeVar("R", Unit | None, Placement | None)


class MachineLoss(msgspec.Struct, frozen=True):
    """A machine was judged dead at `since_s` on the leader's clock, and at `at` in Unix time. It may have died at any
    moment after `alive` (Unix time). For `absent_s` before that its key had been seen to be missing."""

    since_s: float
    at: float
    alive: float = 0.0
    absent_s: float = 0.0


def is_later(unit: Unit, rollout: Rollout) -> bool:
    """True if the unit was changed by a request that is later than the rollout."""
    return unit.generation > rollout.generation and unit.rollout != rollout.id


def _is_unfinished(rollout: Rollout) -> bool:
    """True for a rollout that is not over, or that is done but for absent members."""
    return not rollout.is_over or (rollout.phase is Phase.DONE and rollout.former != ())


class Snapshot:
    """The cluster as the store shows it, and as its leader has observed it. Whatever is listed by machine is in order
    of machine ids.

    `machines` are registered, `away` are absent but may be alive; any other machine is dead, `lost` says since when.
    """

    def __init__(self) -> None:
        # Records of the store.
        self.units: dict[str, Unit] = {}
        self.machines: dict[str, Machine] = Ordered()
        self.settings: dict[str, MachineSettings] = {}
        self.cluster_settings = ClusterSettings()
        self.synced: dict[str, str] = Ordered()  # machine → session
        self.decisions: dict[str, Decision] = {}
        self.placements: dict[str, dict[str, Placement]] = {}  # unit → machine → placement
        self.states: dict[str, dict[str, UnitState]] = {}  # unit → machine → state
        self.usage: Usage | None = None  # as stored last
        self.rollouts: dict[str, Rollout] = {}  # by group
        self.commands: dict[str, Command] = {}  # by group
        self.applies: dict[str, Apply] = {}  # by id
        self.moves: dict[str, Move] = {}  # by unit
        self.reboot_requests: dict[str, RebootRequest] = {}  # by machine
        self.reboots: dict[str, Reboot] = {}  # by machine
        self.secrets: dict[str, Secret] = {}  # without their values
        self.announced: dict[str, dict[tuple[str, str], None]] = {}  # machine → (service, unit)
        self.workers: Names = {}  # machines that joined as workers: no secret is sealed to them but for their units
        self.sealed: dict[tuple[str, str], SealedSecret] = {}  # (machine, secret); without values, too
        # What the leader has observed.
        self.away: frozenset[str] = frozenset()
        self.lost: Mapping[str, MachineLoss] = {}
        self.restored_at = 0  # the store's revision at which its last restore was recorded; 0: it never was
        self.superseded_since: Mapping[tuple[str, str], float] = {}  # (machine, unit) → leader's clock
        self.store_health: StoreHealth | None = None  # asked for only where a member's machine is to reboot
        # Indexes.
        self.effective: dict[str, EffectiveMachine] = Ordered()  # registered machines
        self.limited: dict[str, Limits] = {}  # registered machines that do not take every unit
        self.occupancies: dict[str, Occupancy] = {}
        self.text_bytes = 0  # of all units together
        self.superseded: dict[tuple[str, str], None] = {}  # (machine, unit)
        self.unplaced: Names = {}  # units that are wanted and have no machine
        self.global_units: Names = {}
        self.rejected: Names = {}  # units whose decision counts rejections
        self.with_replacers: Names = {}  # machines that hold a unit with Replaces
        self.placed_on: dict[str, Names] = {}  # machine → the units with placements there
        self.reported_by: dict[str, Names] = {}  # machine → the units it reports
        self.rolling: dict[str, Names] = {}  # group → its units that are changed by a rollout
        self.draining: Names = {}  # machines whose units are to move elsewhere
        self.needing_reboot: Names = {}  # registered machines that say that they want to be rebooted
        self.moving: Names = {}  # units that move to another machine, and have still to stop
        self.units_of_rollout: dict[str, Names] = {}  # id of a rollout → the units that name it
        self.under_way: Names = {}  # groups with a rollout that is not over, or is to begin, and perhaps others
        self.restarting_others: dict[str, int] = {}  # unit → how many placed units are restarted with it
        self.secret_users: dict[str, Names] = {}  # secret → the units that name it
        self.with_secrets: dict[tuple[str, str], None] = {}  # (machine, unit) of placements with secrets
        self.sealing_is_due = False  # what was sealed for whom may differ from what is to be
        self._followers: dict[str, Names] = {}  # peer → the units that name it in MachineOf
        self._sockets: dict[str, Names] = {}  # template → the sockets that start instances of it for connections
        self._instances: dict[str, Names] = {}  # template → its instances
        self._machines_with: dict[str, Names] = {}  # template → the machines that hold instances of it
        self._requirements: dict[str, Requirements] = {}
        self._earlier: dict[str, tuple[str, ...]] = {}  # unit → comes_after; while rollouts are under way
        self._machine_index: MachineIndex | None = None
        self._gone: Names = {}  # not registered, but with placements, announcements or a stored session
        self._unsynced: Names = {}  # machines that have not been planned for in their session

    def copy(self) -> "Snapshot":
        """An independent snapshot of the same cluster. It shares the records, which are frozen."""
        twin = Snapshot()
        for name, value in vars(self).items():
            setattr(twin, name, _copy(value))
        return twin

    # Reading.

    def requirements(self, name: str) -> Requirements:
        """What a known unit requires."""
        return self._requirements[name]

    @property
    def machine_index(self) -> MachineIndex:
        """The registered machines by what they accept, id and metadata."""
        if self._machine_index is None:
            self._machine_index = MachineIndex(self.effective)
        return self._machine_index

    def is_wanted(self, name: str) -> bool:
        """True if the unit is to be on some machine: its target is not inactive, or it is the template of such a
        socket."""
        unit = self.units.get(name)
        if unit is None:
            return False
        if is_template(name):
            return any(map(self.is_wanted, self.sockets(name)))
        return unit.target is not TargetState.INACTIVE

    def sockets(self, template: str) -> Names:
        """The sockets that start instances of this template for connections."""
        return self._sockets.get(template, {})

    def group_units(self, group: str) -> list[str]:
        """The units of a group (model/group.py), in order: the instances of a template, or the unit of this name."""
        if is_template(group):
            return sorted(self._instances.get(group, ()))
        return [group] if group in self.units else []

    def group_options(self, group: str) -> GroupOptions:
        """How the units of a group are changed, as its template says, or the first of them if there is none."""
        unit = next(filter(None, map(self.units.get, (group, *self.group_units(group)[:1]))), None)
        return group_options_of(unit.content) if unit else GroupOptions()

    def assigned_machine(self, name: str) -> str:
        """The machine that the unit is assigned to, or ''."""
        for machine, order in self.placements.get(name, {}).items():
            if order.is_active:
                return machine
        return ""

    def colocated_with(self, name: str) -> Names:
        """The units that MachineOf= joins to this one: those that it names, and those that name it."""
        requirements = self._requirements.get(name)
        bound = dict.fromkeys(requirements.machine_of) if requirements and requirements.machine_of else {}
        followers = self._followers.get(name)
        return bound | followers if followers else bound

    def followers(self, name: str) -> Names:
        """The units that name this one in MachineOf=."""
        return self._followers.get(name, {})

    def comes_after(self, name: str) -> tuple[str, ...]:
        """The units that are to be changed before this one where they are on its machine (find_earlier)."""
        found = self._earlier.get(name)
        if found is None:
            found = self._earlier[name] = earlier_units(self.units[name].content, name)
        return found

    def drain_request(self, machine: str) -> DrainRequest | None:
        """How the machine is drained; None: it is not."""
        return drain_of(self.settings.get(machine), self.reboots.get(machine))

    def on_draining_machines(self) -> list[tuple[str, str]]:
        """(unit, machine) of what is to leave machines that are drained, and of what machines wait for which have
        rebooted: what becomes of it depends on others."""
        found = []
        for machine in self.draining:
            there, request = self.placed_on.get(machine, {}), self.drain_request(machine)
            keeps_globals = request is not None and not request.with_globals and machine not in self.reboots
            kept = self.global_units if keeps_globals else {}
            found += [(name, machine) for name in there if name not in kept]
        for machine, reboot in self.reboots.items():
            if reboot.holds_slot and machine in self.machines:
                found += [(name, machine) for name in reboot.awaited if machine in self.placements.get(name, ())]
        return found

    def is_rolling(self, group: str) -> bool:
        """True if the group has a rollout that is not over, or that is done but for absent members, or is to have
        one."""
        rollout = self.rollouts.get(group)
        if not self.rolling.get(group):
            return False
        if rollout is None or _is_unfinished(rollout):
            return True
        return any(is_later(self.units[name], rollout) for name in self.rolling[group])

    def is_restored_since(self, rollout: Rollout) -> bool:
        """True if the store was restored since the rollout was written: what it was doing may lie hours back."""
        return rollout.revision < self.restored_at

    def occupancy(self, machine: str) -> Occupancy:
        """The units placed on this machine."""
        return self.occupancies.get(machine) or Occupancy()

    def machines_with(self, name: str) -> Names:
        """The machines with the unit, or with instances of the template, of this name; perhaps others."""
        return dict.fromkeys(self.placements.get(name, ())) | self._machines_with.get(name, {})

    def is_dead(self, machine: str) -> bool:
        """True if the machine is neither registered nor possibly alive."""
        return machine not in self.machines and machine not in self.away

    def is_there(self, machine: str) -> bool:
        """True if the machine is registered, or away to reboot, and expected back."""
        return machine in self.machines or (machine in self.reboots and self.reboots[machine].kept_until > 0)

    def presence(self, machine: str) -> Presence:
        """Whether the machine takes part in the cluster."""
        if machine in self.machines:
            return Presence.REGISTERED
        return Presence.AWAY if machine in self.away else Presence.DEAD

    def accepts_work(self, machine: str) -> bool:
        """True if the machine is registered and takes new units, be it only global ones."""
        found = self.effective.get(machine)
        return found is not None and found.accepts_work

    def answers_proofs(self, machine: str) -> bool:
        """True unless the machine is registered and its fleetd would pass over a question for a proof."""
        found = self.effective.get(machine)
        return found is None or found.has_proofs

    def is_running_on(self, name: str, machine: str) -> bool:
        """True if the machine reports that processes of the unit may exist."""
        state = self.states.get(name, {}).get(machine)
        return state is not None and state.runs

    def limit(self, name: str, machine: str) -> str:
        """Why the machine does not take the unit by what it publishes of itself, as a predicate, or ''."""
        limits, unit = self.limited.get(machine), self.units.get(name)
        return refuse(limits, name, unit.content) if limits and unit else ""

    def refusal(self, name: str, machine: str) -> str:
        """Why the machine takes no unit of this name, as a predicate, or ''."""
        reports, orders = self.states.get(name), self.placements.get(name)
        state = reports.get(machine) if reports else None
        if state is not None:  # a missing unit that the cluster has is placed with it
            return "" if state.lacks in self.units else state.refusal
        order = orders.get(machine) if orders else None
        return "takes no unit of this name" if order is not None and order.declined else ""

    def pick_secret(self, name: str, kept: int) -> SecretRef:
        """The version of a secret that a unit is given: this one, if it is kept still; else the present one."""
        secret = self.secrets.get(name)
        if secret is None or secret.has(kept):
            return SecretRef(name, kept)  # of a secret that was removed, what was given out counts on
        return SecretRef(name, secret.present.number)

    def missing_secrets(self, requirements: Requirements) -> tuple[str, ...]:
        """The secrets that a unit with these requirements names and the cluster does not have."""
        return tuple(name for name in requirements.secrets if name not in self.secrets)

    def measure_usage(self) -> Usage:
        """How much this cluster holds."""
        return Usage(len(self.units), self.text_bytes)

    def known_units(self) -> list[str]:
        """Every unit with something to decide, in order."""
        known = (self.units, self.decisions, self.placements, self.moves)
        return sorted({name: None for records in known for name in records})

    def absent(self) -> list[str]:
        """The machines that have placements and are not registered, in order."""
        return sorted(machine for machine in self._gone if self.placed_on.get(machine))

    def dead(self) -> list[str]:
        """The dead machines that have placements, in order."""
        return [machine for machine in self.absent() if machine not in self.away]

    def forgotten(self) -> list[str]:
        """The dead machines whose sessions are still stored, or what they announced, in order."""
        left = (machine for machine in self._gone if machine in self.synced or machine in self.announced)
        return sorted(machine for machine in left if machine not in self.away)

    def unsynced(self) -> list[tuple[str, str]]:
        """(machine, session) of the machines that have not been planned for in this session, in order."""
        return [(machine, self.machines[machine].session) for machine in sorted(self._unsynced)]

    # Updating. None deletes a record.

    def set_unit(self, name: str, unit: Unit | None) -> None:
        """Set a unit."""
        unit = _with_content_of(unit, next(iter(self.placements.get(name, {}).values()), None))
        former = self.units.get(name)
        if former is not None:
            self._index_requirements(name, belongs=False)
            self._index_rollout(former, belongs=False)
        template = template_of(name)
        if template and template != name:
            mark(self._instances.setdefault(template, {}), name, unit is not None)
        self.text_bytes += size_of(unit.content if unit else None) - size_of(former.content if former else None)
        set_or_delete(self.units, name, unit)
        set_or_delete(self._requirements, name, placed_requirements(unit.content, name) if unit else None)
        if unit is not None:
            self._index_requirements(name, belongs=True)
            self._index_rollout(unit, belongs=True)
        decision = self.decisions.get(name)
        if decision is not None and decision.target:
            self._refresh_occupant(decision.target, name)
        self._refresh_unplaced(name)

    def set_placement(self, machine: str, name: str, placement: Placement | None) -> None:
        """Set the placement of a unit on a machine."""
        placement = _with_content_of(placement, self.units.get(name))
        _set_by_machine(self.placements, name, machine, placement)
        mark(self.placed_on.setdefault(machine, {}), name, placement is not None)
        self._refresh_session(machine)
        mark(self.superseded, (machine, name), placement is not None and placement.superseded)
        if placement is not None and placement.secrets and not placement.is_withdrawn:
            self.with_secrets[machine, name] = None
            self.sealing_is_due = True
        elif self.with_secrets and (machine, name) in self.with_secrets:
            del self.with_secrets[machine, name]
            self.sealing_is_due = True
        self._refresh_occupant(machine, name)
        self._refresh_unplaced(name)

    def set_state(self, machine: str, name: str, state: UnitState | None) -> None:
        """Set what a machine reports of a unit."""
        _set_by_machine(self.states, name, machine, state)
        mark(self.reported_by.setdefault(machine, {}), name, state is not None)

    def set_decision(self, name: str, decision: Decision | None) -> None:
        """Set the decision about a unit. Its place on the machine that it moves to is kept."""
        former = self.decisions.get(name)
        set_or_delete(self.decisions, name, decision)
        mark(self.moving, name, decision is not None and decision.target != "")
        for machine in {each.target: None for each in (former, decision) if each is not None and each.target}:
            self._refresh_occupant(machine, name)
        mark(self.rejected, name, decision is not None and bool(decision.rejections))

    def set_machine(self, machine: str, record: Machine | None) -> None:
        """Set a registered machine."""
        former = self.machines.get(machine)
        if record is not None and record.seal_key != (former.seal_key if former else ""):
            self.sealing_is_due = True
        set_or_delete(self.machines, machine, record)
        mark(self.needing_reboot, machine, record is not None and record.reboot_required != "")
        self._refresh_session(machine)
        self._refresh_effective(machine)

    def set_settings(self, machine: str, settings: MachineSettings | None) -> None:
        """Set the settings of a machine."""
        set_or_delete(self.settings, machine, settings)
        mark(self.draining, machine, self.drain_request(machine) is not None)
        self._refresh_effective(machine)

    def set_reboot(self, machine: str, reboot: Reboot | None) -> None:
        """Set the reboot of a machine."""
        set_or_delete(self.reboots, machine, reboot)
        mark(self.draining, machine, self.drain_request(machine) is not None)
        self._refresh_effective(machine)

    def set_session(self, machine: str, session: str | None) -> None:
        """Set the session of a machine that was planned for."""
        set_or_delete(self.synced, machine, session)
        self._refresh_session(machine)

    def set_announced(self, machine: str, announced: dict[tuple[str, str], None] | None) -> None:
        """Set what a machine announces."""
        set_or_delete(self.announced, machine, announced or None)
        self._refresh_session(machine)

    def set_secret(self, name: str, secret: Secret | None) -> None:
        """Set a secret."""
        set_or_delete(self.secrets, name, secret.without_values() if secret else None)
        self.sealing_is_due = True

    def set_sealed_secret(self, machine: str, name: str, sealed: SealedSecret | None) -> None:
        """Set what is sealed of a secret for a machine."""
        set_or_delete(self.sealed, (machine, name), sealed.without_values() if sealed else None)
        self.sealing_is_due = True

    def _index_requirements(self, name: str, *, belongs: bool) -> None:
        """Have the unit in the indexes by what it requires, or not."""
        requirements = self._requirements[name]
        for peer in requirements.machine_of:
            mark(self._followers.setdefault(peer, {}), name, belongs)
        if requirements.template:
            mark(self._sockets.setdefault(requirements.template, {}), name, belongs)
        mark(self.global_units, name, belongs and requirements.is_global)
        for secret in requirements.secrets:
            mark(self.secret_users.setdefault(secret, {}), name, belongs)

    def set_rollout(self, group: str, rollout: Rollout | None) -> None:
        """Set the rollout of a group."""
        set_or_delete(self.rollouts, group, rollout)
        mark(self.under_way, group, self.is_rolling(group))
        if not self.under_way:
            self._earlier.clear()

    def _index_rollout(self, unit: Unit, *, belongs: bool) -> None:
        self._earlier.pop(unit.name, None)
        if unit.rollout:
            group = group_of(unit.name)
            mark(self.rolling.setdefault(group, {}), unit.name, belongs)
            mark(self.units_of_rollout.setdefault(unit.rollout, {}), unit.name, belongs)
            rollout = self.rollouts.get(group)
            if belongs and (rollout is None or _is_unfinished(rollout) or is_later(unit, rollout)):
                self.under_way[group] = None

    def _refresh_occupant(self, machine: str, name: str) -> None:
        """Have the unit among the occupants of the machine if it is placed there, or is to move there."""
        occupancy = self.occupancies.setdefault(machine, Occupancy())
        placement, decision = self.placements.get(name, {}).get(machine), self.decisions.get(name)
        self._count_restarted_with(name, occupancy.units.get(name), -1)
        occupancy.discard(name)
        if placement is not None and placement.occupies:
            occupancy.add(name, placed_requirements(placement.content, name), staying=placement.is_active)
        elif decision is not None and decision.target == machine and name in self.units:
            occupancy.add(name, self.requirements(name), staying=True)
        self._count_restarted_with(name, occupancy.units.get(name), 1)
        mark(self.with_replacers, machine, bool(occupancy.replaces))
        template = template_of(name)
        if template:
            mark(self._machines_with.setdefault(template, {}), machine, template in occupancy.templates)

    def _count_restarted_with(self, name: str, requirements: Requirements | None, difference: int) -> None:
        if requirements is None:
            return
        for other in (*requirements.restarts_with, *((name,) if requirements.restarts else ())):
            count = self.restarting_others.get(other, 0) + difference
            set_or_delete(self.restarting_others, other, count or None)

    def _refresh_session(self, machine: str) -> None:
        record = self.machines.get(machine)
        is_known = bool(self.placed_on.get(machine)) or machine in self.synced or machine in self.announced
        mark(self._gone, machine, record is None and is_known)
        session = record.session if record else ""
        mark(self._unsynced, machine, session not in ("", self.synced.get(machine)))

    def _refresh_effective(self, machine: str) -> None:
        record = self.machines.get(machine)
        settings, reboot = self.settings.get(machine), self.reboots.get(machine)
        set_or_delete(self.effective, machine, effective_machine(record, settings, reboot) if record else None)
        limits = limits_of(record) if record else NO_LIMITS
        set_or_delete(self.limited, machine, None if limits is NO_LIMITS else limits)
        self._machine_index = None

    def _refresh_unplaced(self, name: str) -> None:
        is_alone = name not in self.global_units and not is_template(name)  # others are on many machines
        unplaced = is_alone and self.is_wanted(name) and not self.assigned_machine(name)
        mark(self.unplaced, name, unplaced)


def _with_content_of(record: R, other: Unit | Placement | None) -> R:
    """The record with the other's objects if both contents are equal: most of the memory is held once so."""
    if record is None or other is None or record.text is other.text:
        return record
    if record.text != other.text or record.dropins != other.dropins:
        return record
    return msgspec.structs.replace(record, text=other.text, dropins=other.dropins)


def _copy(value: Any) -> Any:
    """The value, which is shared if it is frozen, and copied with what is in it if it is not."""
    if isinstance(value, Occupancy):
        return value.copy()
    if not isinstance(value, dict):
        return value
    twin = type(value)()
    twin.update((key, _copy(each) if isinstance(each, dict | Occupancy) else each) for key, each in value.items())
    return twin


def _set_by_machine(index: dict[str, dict[str, Any]], name: str, machine: str, value: Any) -> None:
    """Set a unit's value for a machine; None deletes it."""
    at = index.setdefault(name, Ordered())
    set_or_delete(at, machine, value)
    if not at:
        del index[name]
