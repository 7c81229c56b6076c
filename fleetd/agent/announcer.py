"""Announces the units here that say so (Announce=): while they are active and their checks pass, and no longer than
until they are about to be stopped.

A unit is withdrawn before it is stopped or restarted, and then goes on for AnnounceDelay=, because others still use the
address that they were told a moment ago. Without an answer of the store the stop waits for WITHDRAWAL_S at most: what
somebody asked for is done, and the name goes when the store is back.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from fleetd.agent.announcement_writer import AnnouncementWriter, Key
from fleetd.agent.check_runner import CheckRunner
from fleetd.agent.ledger import Announced, AnnouncedUnit, Ledger
from fleetd.agent.own_settings import OwnSettings
from fleetd.agent.prober import Prober, WithoutPrograms
from fleetd.agent.proof_timers import ProofTimers
from fleetd.aio import first_of
from fleetd.membership.registration import Registration
from fleetd.model.announce_options import NOTHING, AnnounceOptions, announce_options_of
from fleetd.model.announcement import NOT_SETTLED, SETTLED_S, ServiceRecord
from fleetd.model.machine import MachineSettings
from fleetd.model.placement import Placement
from fleetd.reconciler.actions import Action
from fleetd.reconciler.announcing import (
    FLAP_WINDOW_S,
    Health,
    describe_health,
    is_at_work,
    may_begin,
    note_end,
    note_result,
)
from fleetd.reconciler.observed import Observed, is_carried_out
from fleetd.reconciler.withdrawal import hold_back
from fleetd.registry.registry import Registry

log = logging.getLogger(__name__)

WITHDRAWAL_S = 10.0  # for so long a stop waits for the store to acknowledge the withdrawal
EARLY_S = 0.001  # by which a timer may be early
UNCHECKED_STEP_S = 5.0  # a unit without a check that flaps has to be active for so long, for each pass that it needs
CONFINED = "this machine confines its units (confine= in fleet.conf), and a program of Check= would run as root"
WITHDRAWN = "withdrawn, because it is about to be stopped"
_MACHINE = ""  # the cause of withdrawals where the whole machine is about to go down

Place = tuple[str, str]  # address and zone of this machine
FindPlace = Callable[[MachineSettings | None], Place]  # by what operators have set for this machine


class _Withdrawal(msgspec.Struct):
    """When the withdrawal was asked for, and when the store acknowledged it (None: not yet). `causes` are the units
    whose stop waits for it; `is_over`: they may stop now."""

    asked_s: float
    acknowledged_s: float | None = None
    causes: dict[str, None] = {}
    is_over: bool = False


class _Unit(msgspec.Struct):
    """A unit that announces itself. `is_at_work`, as seen last; `runs` since nothing was under way that might have
    stopped it."""

    options: AnnounceOptions = NOTHING
    health: Health = Health()
    is_at_work: bool = False
    runs: bool = False
    announced_s: float | None = None
    withdrawal: _Withdrawal | None = None


class Announcer:
    """The announcements of one machine, which is at the place that `place` returns. `mark` has the agent look at a unit
    again. For units of a machine that is `confined` no program is run. Needs a running event loop."""

    def __init__(
        self,
        machine_id: str,
        registry: Registry,
        registration: Registration,
        ledger: Ledger,
        prober: Prober,
        place: FindPlace,
        mark: Callable[[str], None],
        *,
        confined: bool = False,
    ) -> None:
        self._machine_id = machine_id
        self._ledger = ledger
        self._find_place = place
        self._settings = OwnSettings(registry, machine_id, self.wake)
        self._mark = mark
        self._placed = ("", "")
        known = ledger.announced
        self._keys: tuple[Key, ...] = known.keys if known else ()
        self._units: dict[str, _Unit] = {}
        for name, unit in (known.units if known else {}).items():
            withdrawn_s = unit.withdrawn_s
            withdrawal = None if withdrawn_s is None else _Withdrawal(withdrawn_s, withdrawn_s, {name: None})
            self._units[name] = _Unit(unit.options, unit.health, announced_s=unit.announced_s, withdrawal=withdrawal)
        self._writer = AnnouncementWriter(
            registry, machine_id, registration, known.keys if known else None, self._remember, self._note_settled
        )
        allowed = WithoutPrograms(prober, CONFINED) if confined else prober
        self._checks = CheckRunner(allowed, lambda: self._place()[0], self._note_result)
        self._timers = ProofTimers(self._come_due)
        self._stops: dict[str, asyncio.TimerHandle] = {}
        self._saved: dict[str, AnnouncedUnit] = dict(known.units) if known else {}

    async def run(self) -> None:
        """Write what is announced, until cancelled. Where nothing is, nothing is asked of the store."""
        await self._writer.wait_until_used()
        await first_of(self._settings.run(), self._write())

    async def _write(self) -> None:
        await self._settings.is_read.wait()  # otherwise each restart of fleetd would announce another zone for a moment
        await self._writer.run()

    def _place(self) -> Place:
        return self._find_place(self._settings.current)

    def close(self) -> None:
        """Check nothing any more."""
        self._checks.close()
        self._timers.close()
        for timer in self._stops.values():
            timer.cancel()

    def wake(self) -> None:
        """The machine may be registered, acknowledged, or be at another place."""
        if self._units and self._placed != self._place():
            self._placed = self._place()
            for name in [name for name, unit in self._units.items() if unit.runs]:
                self._apply(name)
        self._writer.wake()

    def decide_rest(self, except_for: Collection[str]) -> None:
        """The units that are here were followed, but for these: what an earlier fleetd announced of others goes."""
        self._writer.decide_rest(except_for)

    def store_restored(self) -> None:
        """What the store holds of this machine may be old."""
        self._settings.read_again()
        self._writer.read_all()

    # What the agent asks.

    def hold_back(
        self, plan: Sequence[Action], observed: Iterable[str], placements: Mapping[str, Placement]
    ) -> tuple[Action, ...]:
        """The actions of the plan for the observed units that need not wait until a name is withdrawn. The withdrawals
        that others wait for are begun, and those that nothing waits for any more are taken back."""
        withdrawals = {name: unit.withdrawal for name, unit in self._units.items() if unit.withdrawal}
        if not withdrawals and not plan:
            return ()
        announced = self._writer.announced_units() | dict.fromkeys(withdrawals)
        held = hold_back(plan, announced, placements, self._is_withdrawn)
        kept = dict.fromkeys(action.unit for action in held.plan)
        free = [cause for cause in observed if cause not in held.waits]
        for name, withdrawal in withdrawals.items():
            for cause in free:
                if cause in withdrawal.causes:
                    del withdrawal.causes[cause]
                    withdrawal.is_over = withdrawal.is_over or cause in kept
            if not withdrawal.causes and not withdrawal.is_over:
                self._end_withdrawal(name)
        for cause, names in held.waits.items():
            for name in names:
                self._withdraw(name, cause)
        return held.plan

    def withdraw_all(self, *, is_going: bool) -> bool:
        """Take back all names, since the machine is about to go down; or if it is not (any more), have them again.
        True if nothing has to wait for a withdrawal."""
        if is_going:
            for name in self._writer.announced_units():
                withdrawal = self._units[name].withdrawal if name in self._units else None
                if withdrawal is None or _MACHINE not in withdrawal.causes:
                    self._withdraw(name, _MACHINE)
        going = [name for name, unit in self._units.items() if unit.withdrawal and _MACHINE in unit.withdrawal.causes]
        if is_going:
            return all(map(self._is_withdrawn, going))
        for name in going:
            self._forget_cause(name, _MACHINE)
        return True

    def _forget_cause(self, name: str, cause: str) -> None:
        withdrawal = self._units[name].withdrawal
        assert withdrawal is not None
        del withdrawal.causes[cause]
        if not withdrawal.causes and not withdrawal.is_over:
            self._end_withdrawal(name)

    def follow(self, name: str, placement: Placement | None, seen: Observed) -> None:
        """The unit was seen like this: announce it or not, and check it or not."""
        unit = self._units.get(name)
        options = self._find_options(unit, placement, seen, name)
        if unit is None:
            if not options.services:
                return  # most units
            unit = self._units[name] = _Unit()
        unit.options = options
        unit.is_at_work = options.services != () and is_at_work(placement, seen)
        if not unit.is_at_work:
            self._end_run(name, unit, seen)
            return
        if unit.withdrawal is not None and unit.withdrawal.is_over and may_begin(seen):
            self._end_run(name, unit, seen)  # it was restarted meanwhile, or not stopped after all
        if not unit.runs and may_begin(seen):
            self._begin_run(name, unit, seen)
        if unit.runs:
            self._checks.set(name, options)
            self._apply(name)

    def unannounced(self, name: str) -> str:
        """Why others cannot rely on the name of a unit that is at work, in words; '' if they can, or it has none."""
        unit = self._units.get(name)
        if unit is None or not unit.is_at_work:
            return ""
        if unit.withdrawal is not None:
            return WITHDRAWN
        if words := describe_health(unit.health):
            return words
        return NOT_SETTLED if self._now() < self._settled_s(unit) else ""

    def settled_s(self, name: str) -> float:
        """From when on others can rely on the name of the unit, on the machine's monotonic clock: math.inf while it is
        not announced, 0 if it has none."""
        unit = self._units.get(name)
        return self._settled_s(unit) if unit is not None and unit.options.services else 0.0

    # The runs of units.

    def _find_options(
        self, unit: _Unit | None, placement: Placement | None, seen: Observed, name: str
    ) -> AnnounceOptions:
        """What the unit announces with the content that it runs with; that may be another than it is to have."""
        known = unit.options if unit is not None else NOTHING
        if placement is None or (known.services and not is_carried_out(seen.entry, placement)):
            return known
        return announce_options_of(placement.content, name)

    def _begin_run(self, name: str, unit: _Unit, seen: Observed) -> None:
        unit.runs = True
        if unit.options.check is None and not unit.health.passes:
            self._timers.set(name, seen.at_s + (unit.health.needed - 1) * UNCHECKED_STEP_S)

    def _end_run(self, name: str, unit: _Unit, seen: Observed) -> None:
        self._checks.set(name, None)
        self._timers.set(name, None)
        if unit.runs or unit.health.passes:
            was_ordered = unit.withdrawal is not None
            unit.health = Health() if was_ordered else note_end(unit.health, self._now())
        unit.runs, unit.announced_s, unit.withdrawal = False, None, None
        self._writer.set(name, {})
        if not seen.ours:
            unit.health = note_end(unit.health, self._now())
        self._save(name)
        if not seen.ours and unit.health.failed_at_s:  # that counts for a while, in case the unit comes back
            self._timers.set(name, unit.health.failed_at_s[-1] + FLAP_WINDOW_S)
        elif not seen.ours:
            del self._units[name]

    def _come_due(self, name: str) -> None:
        unit = self._units.get(name)
        if unit is None:
            return
        if unit.runs and unit.options.check is None and not unit.health.passes:
            unit.health = Health(True, failed_at_s=unit.health.failed_at_s)
            self._apply(name)
        self._mark(name)

    def _note_result(self, name: str, failure: str) -> None:
        unit = self._units[name]
        before, unit.health = unit.health, note_result(unit.health, unit.options, failure, self._now())
        if unit.health == before:
            return
        if unit.health.passes != before.passes:
            facts = {"unit": name, "check": str(unit.options.check)}
            log.info("its check passes" if unit.health.passes else f"its check fails: {failure}", extra=facts)
        self._apply(name)
        self._mark(name)

    def _apply(self, name: str) -> None:
        """Have what the unit announces now in the store."""
        unit = self._units[name]
        self._writer.set(name, self._records(name, unit))
        if not unit.health.passes:
            unit.announced_s = None
        elif unit.announced_s is None and unit.withdrawal is None and unit.runs and self._writer.is_settled(name):
            self._note_settled(name)
        self._save(name)

    def _records(self, name: str, unit: _Unit) -> dict[str, ServiceRecord]:
        health = unit.health
        if not unit.runs or unit.withdrawal is not None or not (health.passes or health.failing):
            return {}
        address, zone = self._place()
        failing = describe_health(health)
        return {
            service: ServiceRecord(address, ports, zone, failing, service, self._machine_id, name)
            for service, ports in unit.options.services
        }

    def _note_settled(self, name: str) -> None:
        """The store has what is announced of this unit."""
        unit = self._units.get(name)
        if unit is None:
            return
        if unit.withdrawal is not None:
            self._note_withdrawn(name, unit, unit.withdrawal)
        elif unit.health.passes and unit.runs and unit.announced_s is None:
            unit.announced_s = self._now()
            self._timers.set(name, self._settled_s(unit))
            self._mark(name)
        self._save(name)

    def _settled_s(self, unit: _Unit) -> float:
        is_announced = unit.announced_s is not None and unit.withdrawal is None and unit.health.passes
        return (unit.announced_s or 0.0) + SETTLED_S if is_announced else math.inf

    # Withdrawals.

    def _is_withdrawn(self, name: str) -> bool:
        unit = self._units.get(name)
        withdrawal = unit.withdrawal if unit else None
        if unit is None or withdrawal is None:
            return False
        now_s = self._now() + EARLY_S
        if withdrawal.acknowledged_s is not None:
            return now_s >= withdrawal.acknowledged_s + unit.options.delay_s
        if now_s < withdrawal.asked_s + WITHDRAWAL_S:
            return False
        log.warning("the store has not acknowledged the withdrawal of %s; it is stopped all the same", name)
        return True

    def _withdraw(self, name: str, cause: str) -> None:
        unit = self._units.setdefault(name, _Unit())
        if unit.withdrawal is not None:
            unit.withdrawal.causes[cause] = None
            self._wait(name, unit, unit.withdrawal)
            return
        log.info("withdrawing its name before it is stopped", extra={"unit": name})
        unit.withdrawal = _Withdrawal(self._now(), causes={cause: None})
        unit.announced_s = None
        self._apply(name)
        if self._writer.is_settled(name):
            self._note_withdrawn(name, unit, unit.withdrawal)
        self._wait(name, unit, unit.withdrawal)
        self._mark(name)

    def _note_withdrawn(self, name: str, unit: _Unit, withdrawal: _Withdrawal) -> None:
        if withdrawal.acknowledged_s is None:
            withdrawal.acknowledged_s = self._now()
            self._wait(name, unit, withdrawal)
            self._save(name)

    def _wait(self, name: str, unit: _Unit, withdrawal: _Withdrawal) -> None:
        """Have the agent look at what waits for this withdrawal when it is over."""
        if timer := self._stops.pop(name, None):
            timer.cancel()
        due_s = withdrawal.asked_s + WITHDRAWAL_S
        if withdrawal.acknowledged_s is not None:
            due_s = withdrawal.acknowledged_s + unit.options.delay_s
        self._stops[name] = asyncio.get_running_loop().call_at(due_s, self._release, name)

    def _release(self, name: str) -> None:
        del self._stops[name]
        unit = self._units.get(name)
        for cause in list(unit.withdrawal.causes) if unit and unit.withdrawal else ():
            self._mark(cause or name)

    def _end_withdrawal(self, name: str) -> None:
        unit = self._units[name]
        unit.withdrawal = None
        if unit.runs:
            self._apply(name)
        self._mark(name)

    # The ledger.

    def _remember(self, keys: tuple[Key, ...]) -> None:
        self._keys = keys
        self._put()

    def _save(self, name: str) -> None:
        """Note how the unit goes, if that has changed."""
        unit = self._units[name]
        withdrawn_s = unit.withdrawal.acknowledged_s if unit.withdrawal else None
        health = unit.health if unit.health.passes or unit.health.failed_at_s else Health()
        options = unit.options if unit.runs else NOTHING
        noted = AnnouncedUnit(options, msgspec.structs.replace(health, in_row=0), unit.announced_s, withdrawn_s)
        if noted != self._saved.get(name, AnnouncedUnit()):
            if noted == AnnouncedUnit():
                del self._saved[name]
            else:
                self._saved[name] = noted
            self._put()

    def _put(self) -> None:
        try:
            self._ledger.put_announced(Announced(self._keys, dict(self._saved)))
        except OSError as error:
            log.warning("cannot note what the units here announce: %s", error)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
