"""Keeps the lease with which systemd stops units where this machine is cut off (IsolationSec=, Lock=).

systemd alone ends what runs, at a deadline; fleetd only moves it on with each heartbeat that is answered. So nothing
that keeps fleetd from doing so lets a unit run on: a cut, a store that is frozen, a fleetd that is dead or stopped.
A machine without such units asks systemd for nothing.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from fleetd.agent.executor import Executor
from fleetd.agent.ledger import Ledger, Restored
from fleetd.agent.unit_locks import TakesLocks, UnitLocks
from fleetd.membership.registration import Registration
from fleetd.membership.store_epoch import StoreChange, StoreEpoch
from fleetd.model.isolation import NOT_ISOLATED, IsolationOptions
from fleetd.model.isolation_options import isolation_options_of
from fleetd.model.job_result import SKIPPED
from fleetd.model.placement import Placement
from fleetd.reconciler.actions import Action, Restart, Start, Stop
from fleetd.reconciler.after_restore import Adoption
from fleetd.reconciler.isolation import admit, as_not_started, isolation_deadline_s, stop_unlocked
from fleetd.reconciler.observed import Observed
from fleetd.systemd.protocol import IsolatedUnit, Isolation, ManagerUnavailable, ServiceManager, ServiceManagerError

log = logging.getLogger(__name__)

_Lease = tuple[tuple[IsolatedUnit, ...], float]
NO_LEASE: _Lease = ((), -math.inf)
NOT_KNOWN = "the restored store does not know it, and it must never run twice"
MAY_RUN_ELSEWHERE = "held back for a while after a restore of the store, because it may run elsewhere (IsolationSec=)"
CUT_OFF = "stopped, and held back, because this machine was cut off from the store (IsolationSec=)"


class IsolationKeeper:
    """The lease of one machine. `mark` has the agent look at units again, and `wake` has it begin a pass. While the
    desired state is not `is_current`, as after a registration and a restore of the store, a heartbeat says nothing of
    what may run here."""

    def __init__(
        self,
        systemd: ServiceManager,
        ledger: Ledger,
        registration: Registration,
        executor: Executor,
        mark: Callable[[Collection[str]], None],
        wake: Callable[[], None],
        is_current: Callable[[], bool],
        locks: TakesLocks | None,
    ) -> None:
        self._systemd = systemd
        self._ledger = ledger
        self._registration = registration
        self._executor = executor
        self._mark = mark
        self._wake = wake
        self._is_current = is_current
        self._news = asyncio.Event()
        self._locks = None
        if locks is not None:
            self._locks = UnitLocks(
                locks,
                ledger,
                ledger.directory / "locks",
                registration.boot_now,
                lambda name: mark((name,)),
                self._news.set,
                systemd.permit,
                self._is_busy,
            )
        self._last: _Lease = NO_LEASE  # the lease as it was asked for
        self._is_late = False  # a heartbeat has not counted yet, because of that
        self._restored = ledger.restored
        self._is_adopting = False  # the store was restored, and what runs here was not compared with it yet
        self._heartbeat_s = -math.inf  # when the last heartbeat that counts was sent
        self._is_known = False  # whether a lease is held that an earlier fleetd asked for
        self._may_be_leased = True
        self._is_isolated = False
        self._held_back: dict[str, None] = {}
        self._asked: dict[str, IsolationOptions] = {}  # units that are about to be written
        self._asking = asyncio.Lock()

    async def run(self) -> None:
        """Renew the lease after each heartbeat that was answered, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._renew()
            except (ServiceManagerError, OSError) as error:
                log.warning("cannot renew the lease of this machine's units, so systemd may stop them: %s", error)

    def heartbeat_answered(self) -> None:
        """The store has answered a heartbeat."""
        if self._executor.isolating or self._may_be_leased:
            self._news.set()
        if self._is_isolated or self._held_back:
            self._mark(self._held_back)
            self._wake()

    def resume(self) -> None:
        """Renew the locks that an earlier fleetd has taken."""
        if self._locks is not None:
            self._locks.resume()
            self._mark(self._locks.names)

    def close(self) -> None:
        """Renew nothing any more. What is held stays held for the next fleetd."""
        if self._locks is not None:
            self._locks.close()

    def waits(self, name: str) -> bool:
        """True if the unit would run if it had its lock."""
        return self._locks is not None and self._locks.waits(name)

    def stop_orphans(self, adoption: Adoption) -> tuple[tuple[str, ...], tuple[Stop, ...]]:
        """The orphans that are kept, and the stops of others: what must never run twice may be placed elsewhere at any
        moment, so that no heartbeat lets it run on. Raises OSError."""
        single = [name for name in adoption.unwanted if self._executor.isolating.get(name, NOT_ISOLATED).is_single]
        leaving = tuple(dict.fromkeys((*self._restored.leaving, *single)))
        self._put_restored(msgspec.structs.replace(self._restored, leaving=leaving))
        self._is_adopting = False
        stops = tuple(Stop(name, NOT_KNOWN, adoption.entries[name]) for name in adoption.orphans if name in single)
        return tuple(name for name in adoption.orphans if name not in single), stops

    def store_read(self, change: StoreChange, epoch: StoreEpoch) -> None:
        """The store was read anew. If it was restored, units may run elsewhere of which it does not know; those stop in
        time. When that was is not known of a restore before this machine's boot: it may have been a moment ago. Raises
        OSError."""
        self._is_adopting |= change is not StoreChange.NONE
        is_unknown = epoch.was_restored and not self._ledger.store.cluster_id and self._restored.noticed_s is None
        if change is not StoreChange.NONE or is_unknown:
            noticed_s = self._registration.boot_now()
            self._put_restored(msgspec.structs.replace(self._restored, noticed_s=noticed_s))

    def _put_restored(self, restored: Restored) -> None:
        self._restored = restored
        self._ledger.put_restored(restored)

    def note(self, name: str) -> str:
        """Why the unit is held back, or ''."""
        if self._is_isolated and name in self._executor.isolating:
            return CUT_OFF
        if name in self._held_back and self._may_run_elsewhere(self._executor.isolating.get(name, NOT_ISOLATED)):
            return MAY_RUN_ELSEWHERE
        return self._locks.note(name) if self._locks else ""

    async def come_back(self, *, is_acknowledged: bool) -> tuple[str, ...]:
        """End the isolation of this machine once the leader has acknowledged it and the units have stopped. Returns the
        units that may be started again. Raises ManagerUnavailable."""
        units = self._executor.isolating
        if not units:
            return ()
        if self._is_late and self._is_current():
            self._news.set()
        try:
            state = self._systemd.isolation()
            if self._may_end(state, is_acknowledged=is_acknowledged):
                await self._end(state)
                return tuple(units)
        except ManagerUnavailable:
            raise
        except (ServiceManagerError, OSError) as error:
            log.warning("cannot let units start again that were stopped while this machine was cut off: %s", error)
        return ()

    def _may_end(self, state: Isolation, *, is_acknowledged: bool) -> bool:
        if not state.is_isolated:
            self._is_isolated = False
            return False
        if not self._is_isolated:
            self._is_isolated = True
            log.warning("systemd has stopped units because this machine was cut off", extra={"units": state.stopped})
        return is_acknowledged and not state.is_under_way and not self._is_due

    async def _end(self, state: Isolation) -> None:
        for name in self._units:
            entry = self._ledger.get(name)
            was_skipped = self._systemd.job_result(name) == SKIPPED or (entry and entry.result == SKIPPED)
            if entry and (name in state.stopped or was_skipped):
                self._ledger.put(name, as_not_started(entry))
        async with self._asking:
            lease = self._to_lease(), self._deadline_s()
            if lease[1] == math.inf:
                await self._drop()
            else:
                await self._systemd.end_isolation(*lease)
                self._last = lease
        self._is_isolated = False
        log.info("this machine is not cut off any more; its units may be started again")

    async def admit(
        self,
        plan: Sequence[Action],
        observed: Mapping[str, Observed],
        placements: Mapping[str, Placement],
        *,
        is_acknowledged: bool,
    ) -> tuple[Action, ...]:
        """The actions of the plan that may be carried out now; the lease is held for what they start. Raises
        ManagerUnavailable."""

        def isolating(name: str) -> IsolationOptions:
            placement = placements.get(name)
            return isolation_options_of(placement.content, name) if placement else NOT_ISOLATED

        def is_open(options: IsolationOptions) -> bool:
            return is_acknowledged and not self._is_isolated and not self._may_run_elsewhere(options)

        self._find_left(observed)

        for name in observed:
            self._held_back.pop(name, None)
        written = self._executor.isolating
        changing = {action.unit for action in plan}  # not what still waits for its image with the content that it has
        placed = {name: isolating(name) for name in observed if name in changing}
        locked = [name for name in observed if self._is_locked(name, written.get(name), placed.get(name))]
        plan = stop_unlocked(plan, observed, written, locked)
        admission = admit(plan, isolating, is_open, [name for name in observed if self._holds(name, isolating(name))])
        kept = admission.plan
        if self._locks is not None:
            waiting = {name: isolating(name) for name in admission.waiting}
            starting = [action.unit for action in kept if isinstance(action, Start | Restart)]
            self._locks.settle(observed, written, waiting, starting)
        self._asked = {name: isolating(name) for name in admission.leased}
        if self._asked and not await self._include():
            kept = tuple(action for action in kept if action.unit not in admission.leased)
        left = dict.fromkeys(action.unit for action in kept)
        self._held_back |= {action.unit: None for action in plan if action.unit not in left}
        return kept

    def _may_run_elsewhere(self, options: IsolationOptions) -> bool:
        """True for so long after a restore as a machine may run the unit of which the store does not know."""
        noticed_s, now_s = self._restored.noticed_s, self._registration.boot_now()
        return options.is_single and noticed_s is not None and now_s < noticed_s + options.hold_s

    def _find_left(self, observed: Mapping[str, Observed]) -> None:
        """Have heartbeats count again once all is at rest that was to be stopped since a restore."""
        self._is_adopting = False
        still = [
            name
            for name in self._restored.leaving
            if name not in observed or (observed[name].ours and observed[name].busy)
        ]
        if len(still) < len(self._restored.leaving):
            self._put_restored(msgspec.structs.replace(self._restored, leaving=tuple(still)))
            self._news.set()

    def _holds(self, name: str, options: IsolationOptions) -> bool:
        return self._locks is not None and self._locks.holds(name, options)

    def _is_locked(self, name: str, written: IsolationOptions | None, placed: IsolationOptions | None) -> bool:
        """True if what runs holds the lock that it is to have, as it is written and as it is placed."""
        if written is None or not self._holds(name, written):
            return False
        return placed is None or placed.lock is None or self._holds(name, placed)

    async def _include(self) -> bool:
        """Have the lease name the units that are asked for as well. Returns False if it cannot be held."""
        if self._is_due:
            return False
        try:
            if not frozenset(self._to_lease()) <= frozenset(self._last[0]):
                await self._hold()
        except ManagerUnavailable:
            raise
        except (ServiceManagerError, OSError) as error:
            log.warning("units are not started, because systemd would not stop them in time: %s", error)
            return False
        return True

    async def _renew(self) -> None:
        self._is_late = not self._is_current()
        if self._is_late:
            return
        if not self._is_known:
            self._is_known = True
            self._may_be_leased = self._systemd.isolation().is_leased
        if not self._units:
            async with self._asking:
                await self._drop()
                self._is_isolated = False
        elif self._systemd.isolation().is_isolated:
            self._is_isolated = True
            self._wake()
        elif not self._is_due:  # else systemd stops them, whatever is heard now
            await self._hold()

    async def _hold(self) -> None:
        async with self._asking:
            lease = self._to_lease(), self._deadline_s()
            if lease[1] == math.inf:
                await self._drop()
            elif lease != self._last:
                self._may_be_leased = True
                await self._systemd.hold_lease(*lease)
                self._last = lease

    async def _drop(self) -> None:
        if self._may_be_leased or self._last != NO_LEASE:
            await self._systemd.drop_lease()
        self._last, self._may_be_leased = NO_LEASE, False

    @property
    def _is_due(self) -> bool:
        """True if nothing was heard for so long that systemd stops the units."""
        return self._deadline_s() <= self._registration.boot_now()

    @property
    def _units(self) -> dict[str, IsolationOptions]:
        return {**self._asked, **self._executor.isolating}

    def _deadline_s(self) -> float:
        """When systemd is to stop the first of the units. No heartbeat counts while one runs that a restored store does
        not want here: its stop may take long, and it may be started elsewhere."""
        if self._is_current() and not self._is_adopting and not self._restored.leaving:
            self._heartbeat_s = self._registration.heard_s
        return isolation_deadline_s(self._units, self._heartbeat_s, self._locked_s)

    @property
    def _locked_s(self) -> Mapping[str, float]:
        return self._locks.heard_s if self._locks else {}

    def _to_lease(self) -> tuple[IsolatedUnit, ...]:
        """The units, as systemd is told of them. One that waits for its lock sets no bound: it cannot be started."""
        return tuple(
            IsolatedUnit(
                name, options.isolation_s if options.is_single or name in self._locked_s else math.inf, options.stop_s
            )
            for name, options in sorted(self._units.items())
        )

    async def _is_busy(self, unit: str) -> bool:
        status = (await self._systemd.observe([unit]))[unit]
        return status.runs or status.job
