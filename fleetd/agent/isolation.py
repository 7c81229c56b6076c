"""Keeps the lease with which systemd stops units where this machine is cut off (IsolationSec=, Lock=).

systemd alone ends what runs, at a deadline; fleetd only moves it on with each heartbeat that is answered. So nothing
that keeps fleetd from doing so lets a unit run on: a cut, a store that is frozen, a fleetd that is dead or stopped.
A machine without such units asks systemd for nothing.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence

from fleetd.agent.executor import Executor
from fleetd.agent.ledger import Ledger
from fleetd.membership.registration import Registration
from fleetd.model.isolation import NOT_ISOLATED, IsolationOptions
from fleetd.model.isolation_options import isolation_options_of
from fleetd.model.job_result import SKIPPED
from fleetd.model.placement import Placement
from fleetd.reconciler.actions import Action
from fleetd.reconciler.isolation import admit, as_not_started, isolation_deadline_s
from fleetd.reconciler.observed import Observed
from fleetd.systemd.protocol import IsolatedUnit, Isolation, ManagerUnavailable, ServiceManager, ServiceManagerError

log = logging.getLogger(__name__)

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
    ) -> None:
        self._systemd = systemd
        self._ledger = ledger
        self._registration = registration
        self._executor = executor
        self._mark = mark
        self._wake = wake
        self._is_current = is_current
        self._is_late = False  # a heartbeat has not counted yet, because of that
        self._restored_s = -math.inf
        self._is_known = False  # whether a lease is held that an earlier fleetd asked for
        self._leased: tuple[IsolatedUnit, ...] = ()
        self._is_isolated = False
        self._held_back: dict[str, None] = {}
        self._asked: dict[str, IsolationOptions] = {}  # units that are about to be written
        self._news = asyncio.Event()
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
        if self._executor.isolating or self._leased or not self._is_known:
            self._news.set()
        if self._is_isolated or self._held_back:
            self._mark(self._held_back)
            self._wake()

    def is_single(self, name: str) -> bool:
        """True if the unit, as it is written here, must never run twice."""
        return self._executor.isolating.get(name, NOT_ISOLATED).is_single

    def store_restored(self) -> None:
        """The store was restored. Units may run elsewhere of which it does not know; those stop in time."""
        self._restored_s = self._registration.boot_now()

    def note(self, name: str) -> str:
        """Why the unit is held back, or ''."""
        return CUT_OFF if self._is_isolated and name in self._executor.isolating else ""

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
            self._leased = _to_lease(self._units)
            await self._systemd.end_isolation(self._leased, self._deadline_s())
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
            waits = options.is_single and self._registration.boot_now() < self._restored_s + options.hold_s
            return is_acknowledged and not self._is_isolated and not waits

        for name in observed:
            self._held_back.pop(name, None)
        admission = admit(plan, isolating, is_open, ())
        kept = admission.plan
        self._asked = {name: isolating(name) for name in admission.leased}
        if self._asked and not await self._include():
            kept = tuple(action for action in kept if action.unit not in admission.leased)
        left = dict.fromkeys(action.unit for action in kept)
        self._held_back |= {action.unit: None for action in plan if action.unit not in left}
        return kept

    async def _include(self) -> bool:
        """Have the lease name the units that are asked for as well. Returns False if it cannot be held."""
        if self._is_due:
            return False
        try:
            if not frozenset(_to_lease(self._units)) <= frozenset(self._leased):
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
            if not self._units and not self._systemd.isolation().is_leased:
                return
        if not self._units:
            async with self._asking:
                await self._systemd.drop_lease()
                self._leased, self._is_isolated = (), False
        elif self._systemd.isolation().is_isolated:
            self._is_isolated = True
            self._wake()
        elif not self._is_due:  # else systemd stops them, whatever is heard now
            await self._hold()

    async def _hold(self) -> None:
        async with self._asking:
            leased = _to_lease(self._units)
            await self._systemd.hold_lease(leased, self._deadline_s())
            self._leased = leased

    @property
    def _is_due(self) -> bool:
        """True if nothing was heard for so long that systemd stops the units."""
        return self._deadline_s() <= self._registration.boot_now()

    @property
    def _units(self) -> dict[str, IsolationOptions]:
        return {**self._asked, **self._executor.isolating}

    def _deadline_s(self) -> float:
        return isolation_deadline_s(self._units, self._registration.heard_s, {})


def _to_lease(units: Mapping[str, IsolationOptions]) -> tuple[IsolatedUnit, ...]:
    return tuple(IsolatedUnit(name, options.isolation_s, options.stop_s) for name, options in sorted(units.items()))
