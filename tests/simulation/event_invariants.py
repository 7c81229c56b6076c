"""What must hold of cluster events, at each write: they say what the leader did, once, where it did it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleetd.model.event import ClusterEvent, EventKind
from fleetd.model.placement import Placement
from fleetd.registry.records import EVENTS, PLACEMENTS, SYNCED, RecordKey
from fleetd.store.protocol import Comparison, Event, Operation, Put
from tests.simulation.checker import Checker, Key

if TYPE_CHECKING:
    from tests.simulation.world import World


Written = tuple[str, bytes]  # a key and its value, b"" if it is deleted


class EventsTellWhatWasDone(Checker):
    """Each change of where a unit is, and of which machines take part, has its event in the same transaction, and no
    event tells of anything else. A record of events is written once. So each event is there exactly once, in order."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._asked: set[frozenset[Written]] = set()  # what machines have asked the store to write
        self._synced: dict[str, str] = {}

    def see_restore(self, before: dict[Key, Placement]) -> None:
        self._synced = dict(self.records.synced)

    def see_request(self, writer: str, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> None:
        if any(path.kind in (PLACEMENTS, SYNCED) for each in operations if (path := self.records.path(each.key))):
            written = [each for each in operations if isinstance(each, Put) or each.key in self.records.items]
            self._asked.add(frozenset((each.key, each.value if isinstance(each, Put) else b"") for each in written))

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        told: list[ClusterEvent] = []
        for path, event in events:
            if path.kind is EVENTS and event.item is not None:
                if event.item.create_revision != event.item.mod_revision:
                    self.fail(f"{event.key} was written again")
                told += EVENTS.decode(event.item).events
        written = frozenset((event.key, event.item.value if event.item else b"") for _, event in events)
        if written in self._asked:  # else a test writes to the store
            self._check_places([path.names for path, _ in events if path.kind is PLACEMENTS], before, told)
            self._check_machines([path.names[0] for path, _ in events if path.kind is SYNCED], told)
        self._synced = dict(self.records.synced)

    def _check_places(self, changed: Sequence[Key], before: dict[Key, Placement], told: list[ClusterEvent]) -> None:
        was = {at for at in changed if at in before and before[at].is_active}
        now = {at for at in changed if at in self.records.placements and self.records.placements[at].is_active}
        arrived = [(event.machine, event.unit) for event in told if event.kind in (EventKind.PLACED, EventKind.MOVED)]
        left = [(event.former, event.unit) for event in told if event.kind is EventKind.UNPLACED and event.former]
        moved = [(event.former, event.unit) for event in told if event.kind is EventKind.MOVED]
        if sorted(arrived) != sorted(now - was):
            self.fail(f"units are on new machines, {sorted(now - was)}, and told is {sorted(arrived)}")
        if not set(left) <= was - now <= {*left, *moved} or len(left) != len(set(left)):
            self.fail(f"units are not on machines any more, {sorted(was - now)}, and told is {sorted([*left, *moved])}")

    def _check_machines(self, changed: Sequence[str], told: list[ClusterEvent]) -> None:
        expected = []
        for machine in changed:
            former, present = self._synced.get(machine), self.records.synced.get(machine)
            if former != present:
                kind = EventKind.LOST if present is None else EventKind.BACK if former else EventKind.JOINED
                expected.append((machine, kind))
        kinds = (EventKind.LOST, EventKind.BACK, EventKind.JOINED)
        found = [(event.machine, event.kind) for event in told if event.kind in kinds]
        if sorted(found) != sorted(expected):
            self.fail(f"of machines should be told {sorted(expected)}, and is told {sorted(found)}")
