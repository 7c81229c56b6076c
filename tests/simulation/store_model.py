"""The store's content, write by write: at the moment of each write and complete, unlike any view inside the cluster.

Checkers and scenarios read it.
"""

import asyncio
from typing import Any

from fleetd.model.announcement import ServiceRecord
from fleetd.model.certificate import Revocation, TrustedAuthority
from fleetd.model.cluster_settings import ClusterSettings
from fleetd.model.machine import Machine, MachineSettings
from fleetd.model.move import Move
from fleetd.model.placement import Decision, Placement
from fleetd.model.reboot import Reboot, RebootRequest
from fleetd.model.rollout import Rollout
from fleetd.model.secret import SealedSecret, Secret
from fleetd.model.unit import Unit, UnitState
from fleetd.registry import records
from fleetd.registry.records import Kind, Record, RecordKey
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Event, KeyValue

Names = tuple[str, str]


class StoreModel:
    """The records of the store, by the names in their keys."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.items: dict[str, KeyValue] = {}
        self.units: dict[str, Unit] = {}
        self.machines: dict[str, Machine] = {}
        self.decisions: dict[str, Decision] = {}
        self.synced: dict[str, str] = {}
        self.settings: dict[str, MachineSettings] = {}
        self.cluster_settings = ClusterSettings()
        self.rollouts: dict[str, Rollout] = {}  # by group
        self.moves: dict[str, Move] = {}  # by unit
        self.reboot_requests: dict[str, RebootRequest] = {}  # by machine
        self.reboots: dict[str, Reboot] = {}  # by machine
        self.secrets: dict[str, Secret] = {}
        self.sealed: dict[Names, SealedSecret] = {}  # (machine, secret)
        self.services: dict[tuple[str, str, str], ServiceRecord] = {}  # (service, machine, unit)
        self.authorities: dict[str, TrustedAuthority] = {}  # by number, as text
        self.revocations: dict[str, Revocation] = {}  # the same
        self.placements: dict[Names, Placement] = {}  # (machine, unit)
        self.states: dict[Names, UnitState] = {}
        self.absent_since: dict[str, float] = {}  # machines that were registered and are not
        self.leaders: list[str] = []  # every machine that led, in order

    def forget(self) -> None:
        """Read the whole content again after the store was set back."""
        now_s = asyncio.get_running_loop().time()
        self.absent_since |= dict.fromkeys(self.machines, now_s)
        for found in (self.items, self.units, self.machines, self.decisions, self.synced, self.settings):
            found.clear()
        self.cluster_settings = ClusterSettings()
        self.rollouts.clear()
        self.moves.clear()
        self.reboot_requests.clear()
        self.reboots.clear()
        self.secrets.clear()
        self.sealed.clear()
        self.services.clear()
        self.authorities.clear()
        self.revocations.clear()
        self.placements.clear()
        self.states.clear()

    def path(self, key: str) -> RecordKey | None:
        """The names in a key, also in one of the archive."""
        return self._registry.parse_key(key) or self._registry.archive.parse_key(key)

    def apply(self, event: Event) -> None:
        """Apply one write."""
        path = self.path(event.key)
        if path is None:
            return
        if event.item is None:
            self.items.pop(event.key, None)
        else:
            self.items[event.key] = event.item
        record = path.kind.decode(event.item, path.names) if event.item else None
        match path.kind:
            case records.PLACEMENTS:
                _set(self.placements, path.names, record)
            case records.STATES:
                _set(self.states, path.names, record)
            case records.UNITS:
                _set(self.units, path.names[0], record)
            case records.DECISIONS:
                _set(self.decisions, path.names[0], record)
            case records.SETTINGS:
                _set(self.settings, path.names[0], record)
            case records.CLUSTER_SETTINGS:
                self.cluster_settings = record or ClusterSettings()
            case records.ROLLOUTS:
                _set(self.rollouts, path.names[0], record)
            case records.MOVES:
                _set(self.moves, path.names[0], record)
            case records.REBOOT_REQUESTS:
                _set(self.reboot_requests, path.names[0], record)
            case records.REBOOTS:
                _set(self.reboots, path.names[0], record)
            case records.SECRETS:
                _set(self.secrets, path.names[0], record)
            case records.SEALED_SECRETS:
                _set(self.sealed, path.names, record)
            case records.SERVICES:
                _set(self.services, path.names, record)
            case records.AUTHORITIES:
                _set(self.authorities, path.names[0], record)
            case records.REVOCATIONS:
                _set(self.revocations, path.names[0], record)
            case records.SYNCED:
                _set(self.synced, path.names[0], record.session if record else None)
            case records.MACHINES:
                self._set_machine(path.names[0], record)
            case records.LEADER:
                if record is not None:
                    self.leaders.append(record.machine)

    def _set_machine(self, machine: str, record: Machine | None) -> None:
        _set(self.machines, machine, record)
        if record is not None:
            self.absent_since.pop(machine, None)
        else:
            self.absent_since[machine] = asyncio.get_running_loop().time()

    def item(self, kind: Kind[Record], *names: str) -> KeyValue | None:
        """A record as it is stored."""
        return self.items.get(self._registry.key(kind, *names))

    def assigned_machines(self, unit: str) -> list[str]:
        """The machines that have a placement of the unit that is not superseded."""
        return [
            machine for (machine, name), placement in self.placements.items() if name == unit and placement.is_active
        ]


def _set(kept: dict[Any, Any], key: Any, record: Any) -> None:
    if record is None:
        kept.pop(key, None)
    else:
        kept[key] = record
