"""What must hold of what units need on their machines."""

from collections.abc import Sequence

from fleetd.model.download import Download
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import RejectionKind, WaitingForStop
from fleetd.model.requirements import requirements_of
from fleetd.model.unit import TargetState
from fleetd.registry.records import PLACEMENTS, RecordKey
from fleetd.scheduler.disruption import judge_member
from fleetd.store.protocol import Event
from tests.simulation.checker import Checker, Key, now
from tests.simulation.machine import SimulatedMachine

LATELY_S = 1.0  # what was there is used so long, if somebody removes it meanwhile


def _has(machine: SimulatedMachine, needed: Sequence[Download]) -> bool:
    """True if the machine has all of this, or had it a moment ago."""
    return all(each in machine.fetcher.here for each in needed) or now() - machine.lost_downloads_s < LATELY_S


def _replacer(decision: Decision) -> str:
    """The unit that replaces this one where it is told to stop, or ''."""
    because = decision.reason.because if isinstance(decision.reason, WaitingForStop) else None
    return because.rejection.subject if because and because.rejection.kind is RejectionKind.REPLACED else ""


class DownloadsComeFirst(Checker):
    """No unit is started, and none is stopped for other content, before what it needs is on its machine."""

    def see_call(self, machine: str, verb: str, names: Sequence[str]) -> None:
        if verb not in ("start", "restart", "stop"):
            return
        found = self.world.machines[machine]
        placements = found.node.agent.placements if found.node else {}  # as the machine knows them
        for name in names:
            placement = placements.get(name)
            if placement is None or not placement.is_active or placement.target is not TargetState.LAUNCHED:
                continue
            if not _has(found, requirements_of(placement.content, name).downloads):
                self.fail(f"{machine} does a {verb} of {name}, and has not what it needs")


class NothingHealthyStopsForADownload(Checker):
    """A healthy unit that goes to another machine is told to stop only when that machine has what it needs, unless
    somebody wants that by force; one that another unit replaces, only when that has what it needs itself."""

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for path in (path for path, _ in events if path.kind is PLACEMENTS):
            former, placement = before.get(path.names), self.records.placements.get(path.names)
            if former is None or not former.is_active or placement is None or not placement.is_leaving:
                continue
            self._judge(*path.names, former)

    def _judge(self, machine: str, name: str, former: Placement) -> None:
        unit, decision = self.records.units.get(name), self.records.decisions.get(name)
        state = self.records.states.get((machine, name))
        if unit is None or decision is None or judge_member(former, state) is not None:
            return
        needed = requirements_of(unit.content, name).downloads
        replacer = _replacer(decision)
        if replacer in self.records.units:
            here = self.world.registered(machine)
            wanted = requirements_of(self.records.units[replacer].content, replacer).downloads
            if here is not None and not _has(here, wanted):
                self.fail(f"{name} is told to stop on {machine} for {replacer}, which has not what it needs there")
            if needed and former.content == unit.content and not decision.target:
                self.fail(f"{name} is told to stop on {machine} for {replacer}, and no machine is ready for it")
        goal = self.world.registered(decision.target)
        if goal is not None and not self._is_forced(machine, name) and not _has(goal, needed):
            self.fail(f"{name} is told to stop on {machine}, and {goal.name} has not what it needs")

    def _is_forced(self, machine: str, name: str) -> bool:
        move, settings = self.records.moves.get(name), self.records.settings.get(machine)
        drain = settings.drain if settings else None
        return (move is not None and move.force) or (drain is not None and drain.force)
