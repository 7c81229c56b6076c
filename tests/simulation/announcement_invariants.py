"""What must hold of units that announce themselves (Announce=)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleetd.model.announce_options import announce_options_of
from fleetd.model.announcement import TTL_S
from fleetd.model.content import Content
from fleetd.model.placement import Placement
from fleetd.registry.records import PLACEMENTS, SERVICES, RecordKey
from fleetd.store.protocol import Event
from tests.simulation.checker import Checker, Key, now
from tests.simulation.worker_invariants import served_for_s

if TYPE_CHECKING:
    from tests.simulation.machine import SimulatedMachine
    from tests.simulation.world import World

Name = tuple[str, str, str]  # (service, machine, unit)

LATE_S = TTL_S  # others ask again after TTL_S; together that is TTL_S + 1 s
_REBOOT = "reboot-machine"
_ENDS = ("stop", "restart", _REBOOT)  # what takes a unit down
WRITE_S = 10.0  # the longest time until a machine that can has written a change: it retries after five seconds at most
DELAY_S = 3.0  # AnnounceDelay= by default
WITHDRAWAL_S = 10.0  # for so long a stop waits for the store


class OnlyTheHealthyAreAnnounced(Checker):
    """While its machine reaches the store, no unit is announced for longer than its checks need to find out, and a
    write takes, that does not run or whose check fails; nor for longer than LATE_S once its machine knows that."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._bad_s: dict[Name, float] = {}  # (service, machine, unit) → since when
        self._known_s: dict[Name, float] = {}  # since when its machine knows that

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for path, _ in events:
            if path.kind is PLACEMENTS and (placement := self.records.placements.get(path.names)):  # type: ignore[call-overload]
                check = announce_options_of(placement.content, path.names[1]).check
                for machine in self.world.machines.values():
                    if machine.id == path.names[0]:
                        machine.prober.failed_in_row.pop(str(check), None)  # from now on it counts anew

    def see_rest(self) -> None:
        for key, record in self.records.services.items():
            machine = self.world.registered(key[1]) if record.announcements() else None
            if machine is None:
                self._bad_s.pop(key, None)
                self._known_s.pop(key, None)
                continue
            options = announce_options_of(self._content(key[1], key[2]), key[2])
            runs = (machine.name, key[2]) in self.world.processes
            self._note(self._bad_s, key, runs and (options.check is None or machine.failing_check == ""))
            failed = machine.prober.failed_in_row.get(str(options.check), 0)
            self._note(self._known_s, key, runs and failed < options.failures)
            bound_s = options.failures * (options.interval_s + options.timeout_s) + WRITE_S
            self._judge(key, machine, now() - self._bad_s.get(key, now()), bound_s, "without being well")
            known_s = now() - self._known_s.get(key, now())
            self._judge(key, machine, known_s, LATE_S, "after its machine knew that it is not well")
        for seen in (self._bad_s, self._known_s):
            for key in [key for key in seen if key not in self.records.services]:
                del seen[key]

    @staticmethod
    def _note(since: dict[Name, float], key: Name, is_well: bool) -> None:
        if is_well:
            since.pop(key, None)
        else:
            since.setdefault(key, now())

    def _judge(self, key: Name, machine: "SimulatedMachine", for_s: float, bound_s: float, how: str) -> None:
        able_for_s = min(served_for_s(self.world, machine), self.world.server.answers_for_s)
        if for_s > bound_s and able_for_s > bound_s + WRITE_S:
            self.fail(f"{key[2]} on {machine.name} has been announced for {for_s:g} s {how}")

    def _content(self, machine: str, unit: str) -> Content:
        placement = self.records.placements.get((machine, unit))
        found = placement or self.records.units.get(unit)
        return found.content if found else Content("")

    def see_end(self) -> None:
        for _, machine, unit in self.records.services:
            if machine not in self.records.machines:
                self.fail(f"{unit} is announced on {machine}, which is gone")


class WithdrawalComesFirst(Checker):
    """No unit is stopped or restarted, and no machine is rebooted by fleetd, while a name can still be found, or was
    withdrawn a moment ago, as long as the machine reaches the store."""

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
        if verb not in _ENDS or served_for_s(self.world, found) < WITHDRAWAL_S + DELAY_S:
            return
        if verb == _REBOOT:
            names = [unit for name, unit in self.world.processes if name == machine]
        for unit in names:
            if any(key[1:] == (found.id, unit) and each.announcements() for key, each in self.records.services.items()):
                self.fail(f"{machine} does a {verb} of {unit}, which is announced")
            gone_s = self._gone_s.get((found.id, unit))
            if gone_s is not None and now() - gone_s < DELAY_S - 0.01 and (machine, unit) in self.world.processes:
                self.fail(f"{machine} does a {verb} of {unit} {now() - gone_s:g} s after its name was withdrawn")
