"""What must hold of units that announce themselves (Announce=)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleetd.model.announce_options import announce_options_of
from fleetd.model.content import Content
from fleetd.model.placement import Placement
from fleetd.registry.records import SERVICES, RecordKey
from fleetd.store.protocol import Event
from tests.simulation.checker import Checker, Key, now
from tests.simulation.worker_invariants import served_for_s

if TYPE_CHECKING:
    from tests.simulation.world import World

WRITE_S = 10.0  # the longest time until a machine that can has written a change: it retries after five seconds at most
DELAY_S = 3.0  # AnnounceDelay= by default
WITHDRAWAL_S = 10.0  # for so long a stop waits for the store


class OnlyTheHealthyAreAnnounced(Checker):
    """While its machine reaches the store, no unit is announced for longer than its checks need to find out, and a
    write takes, that does not run or whose check fails."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._bad_s: dict[tuple[str, str, str], float] = {}  # (service, machine, unit) → since when

    def see_rest(self) -> None:
        for key, record in self.records.services.items():
            if not record.announcements():
                self._bad_s.pop(key, None)
                continue
            _, id_, unit = key
            machine = self.world.machine(id_)
            options = announce_options_of(self._content(id_, unit), unit)
            is_checked = options.check is not None and machine.failing_check != ""
            if (machine.name, unit) in self.world.processes and not is_checked:
                self._bad_s.pop(key, None)
                continue
            since_s = self._bad_s.setdefault(key, now())
            bound_s = options.failures * (options.interval_s + options.timeout_s) + WRITE_S
            if now() - since_s > bound_s and served_for_s(self.world, machine) > bound_s:
                self.fail(f"{unit} on {machine.name} has been announced for {now() - since_s:g} s without being well")
        for key in [key for key in self._bad_s if key not in self.records.services]:
            del self._bad_s[key]

    def _content(self, machine: str, unit: str) -> Content:
        placement = self.records.placements.get((machine, unit))
        found = placement or self.records.units.get(unit)
        return found.content if found else Content("")

    def see_end(self) -> None:
        for _, machine, unit in self.records.services:
            if machine not in self.records.machines:
                self.fail(f"{unit} is announced on {machine}, which is gone")


class WithdrawalComesFirst(Checker):
    """No unit is stopped or restarted whose name can still be found, or was withdrawn a moment ago, as long as its
    machine reaches the store."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._gone_s: dict[Key, float] = {}  # (machine, unit) → when its name was withdrawn

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for path, event in events:
            if path.kind is SERVICES:
                _, machine, unit = path.names
                if event.item is None:
                    self._gone_s[machine, unit] = now()
                else:
                    self._gone_s.pop((machine, unit), None)

    def see_call(self, machine: str, verb: str, names: Sequence[str]) -> None:
        found = self.world.machines[machine]
        if verb not in ("stop", "restart") or served_for_s(self.world, found) < WITHDRAWAL_S + DELAY_S:
            return
        for unit in names:
            if any(key[1:] == (found.id, unit) and each.announcements() for key, each in self.records.services.items()):
                self.fail(f"{machine} does a {verb} of {unit}, which is announced")
            gone_s = self._gone_s.get((found.id, unit))
            if gone_s is not None and now() - gone_s < DELAY_S - 0.01 and (machine, unit) in self.world.processes:
                self.fail(f"{machine} does a {verb} of {unit} {now() - gone_s:g} s after its name was withdrawn")
