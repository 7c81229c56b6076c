"""The agent's loop: observe, plan_machine, execute, publish; and again when something changes.

A pass looks only at units that may have changed. It needs nothing but the mirror of the desired state and one look at
systemd, and doing it twice changes nothing. The agent does not wait for systemd's jobs: the end of one is a change like
any other.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any

from fleetd import metrics
from fleetd.agent.announcer import Announcer, FindPlace
from fleetd.agent.credentials import Credentials
from fleetd.agent.desired_state import DesiredState
from fleetd.agent.downloads import Downloads
from fleetd.agent.executor import Executor
from fleetd.agent.fetcher import Fetcher, LeftToPodman
from fleetd.agent.isolation import IsolationKeeper
from fleetd.agent.ledger import Ledger, StoreSeen
from fleetd.agent.observer import Observer
from fleetd.agent.prober import HostProber, Prober
from fleetd.agent.publisher import StatePublisher
from fleetd.agent.reboot_orders import RebootOrders
from fleetd.agent.reporter import Reporter
from fleetd.agent.unit_locks import TakesLocks
from fleetd.agent.unit_retries import UnitRetries
from fleetd.aio import Backoff, Pace
from fleetd.membership.registration import Registration
from fleetd.membership.store_epoch import StoreChange, StoreEpoch
from fleetd.model.confinement import NO_LIMITS, Limits
from fleetd.model.placement import Placement
from fleetd.model.reboot import RebootRefusal
from fleetd.model.unit import UnitState
from fleetd.reconciler.actions import Write
from fleetd.reconciler.after_restore import is_orphan_still, plan_adoption
from fleetd.reconciler.machine_plan import find_recorded, plan_machine
from fleetd.reconciler.observed import Desired, Observed
from fleetd.reconciler.socket_pairs import with_pairs
from fleetd.registry.registry import Registry
from fleetd.systemd.protocol import ManagerUnavailable, ServiceManager

log = logging.getLogger(__name__)

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 8.0
PASS_PERIOD_S = 0.02  # between the passes of a burst
RECHECK_S = 15.0  # between looks at refused units, at the next heartbeat


class StoreTrust(Enum):
    """How far the agent follows the store: what a pass does (`_pass_over`), by the state that `_assess_trust` finds."""

    RESTORED = auto()  # the store was set back: adopt every unit as it is, change none
    UNKNOWN = auto()  # not registered, or nothing was read since registering: only report
    UNSYNCED = auto()  # the leader has not acknowledged this session: carry out placements, keep units without one
    CURRENT = auto()  # also stop and remove units without a placement


class Agent:
    """One machine's agent. `run` works until it is cancelled, and can be called once.

    `systemd` is connected by the agent, and closed by the caller. `boot_id` is this boot's, and `on_refused_reboot` is
    called when `reboot_refusal` changes. Secrets are left in `credentials_directory`, sealed to the key that
    `find_seal_key` returns ('' if nothing can open any); without a directory, no unit has any.
    `limits` are what this machine's fleet.conf says of the units that it takes. `prober` carries out their checks
    (Check=), `place` returns the address and the zone at which they are announced, by what operators have set, and
    `fetcher` gets what they need.
    Locks of units are taken with `locks`; without, no such unit starts.
    To register the machine: `await publish_all(lease)`,
    write the machine's key, set `registration.lease`, call `heartbeat_answered`, and again for each heartbeat.
    """

    def __init__(
        self,
        machine_id: str,
        registry: Registry,
        systemd: ServiceManager,
        ledger: Ledger,
        epoch: StoreEpoch,
        registration: Registration,
        boot_id: str = "",
        on_refused_reboot: Callable[[], None] = lambda: None,
        credentials_directory: Path | None = None,
        find_seal_key: Callable[[], str] = lambda: "",
        limits: Limits = NO_LIMITS,
        prober: Prober | None = None,
        place: FindPlace = lambda settings: ("", ""),
        fetcher: Fetcher | None = None,
        locks: TakesLocks | None = None,
    ) -> None:
        self._systemd = systemd
        self._ledger = ledger
        self._registration = registration
        self._dirty: dict[str, None] = {}  # units to look at in the next pass
        self._wake = asyncio.Event()
        self._pace = Pace(PASS_PERIOD_S, longest_rest_s=0.25)
        self._has_connected = asyncio.Event()
        self._has_observed = asyncio.Event()
        self._is_unassigned = asyncio.Event()
        self._lease = 0  # of the registration that the desired state was last read for
        self._trust = StoreTrust.UNKNOWN
        self._store_change = StoreChange.NONE  # since the units here were last adopted
        self._epoch_name = ""
        self._rechecked_s = -RECHECK_S
        self._epoch = epoch
        self._desired = DesiredState(registry, machine_id, self._wake.set, epoch)
        self._publisher = StatePublisher(registry, machine_id, registration, epoch.note_revision)
        self._retries = UnitRetries(self._mark_one)
        credentials = None
        if credentials_directory:
            credentials = Credentials(registry, machine_id, credentials_directory, find_seal_key)
        fetcher = fetcher or LeftToPodman()
        self._executor = Executor(
            machine_id,
            systemd,
            ledger,
            self._retries,
            credentials,
            self._desired.find_secrets,
            limits,
            fetcher,
            self._desired.find_downloads,
        )
        self._reboot_orders = RebootOrders(systemd, ledger, boot_id, on_refused_reboot)
        self._announcer = Announcer(
            machine_id,
            registry,
            registration,
            ledger,
            prober or HostProber(),
            place,
            self._mark_one,
            confined=limits.confine,
        )
        self._isolation = IsolationKeeper(
            systemd,
            ledger,
            registration,
            self._executor,
            self._mark,
            self._wake.set,
            lambda: self._desired.is_current and not epoch.set_back.is_set() and epoch.name == self._epoch_name,
            locks,
        )
        self._downloads = Downloads(fetcher, self._mark_one, self._desired.find_certain)
        self._observer = Observer(
            systemd, ledger, self._desired, self._executor, self._retries, self._downloads.failure
        )
        self._reporter = Reporter(
            systemd,
            ledger,
            self._desired,
            self._executor,
            self._retries,
            self._downloads,
            self._isolation,
            self._announcer,
            self._publisher,
            self._mark_one,
        )

    # For the rest of the daemon.

    async def run(self) -> None:
        """Follow the store and systemd, and bring the machine to its desired state, until cancelled. The units then
        stay as they are."""
        self._isolation.resume()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._desired.follow())
                tasks.create_task(self._follow_systemd())
                tasks.create_task(self._publisher.run())
                tasks.create_task(self._announcer.run())
                tasks.create_task(self._isolation.run())
                tasks.create_task(self._work())
        finally:
            self._retries.close()
            self._announcer.close()
            self._isolation.close()
            self._publisher.close()
            await self._reporter.close()
            await self._downloads.close()

    async def publish_all(self, lease: int) -> None:
        """Publish every state on this lease, before the machine's key is written: units that run here then count from
        the start. Waits for the first look at systemd. Raises Unavailable and LeaseNotFound."""
        await self._has_observed.wait()
        await self._publisher.publish_all(lease)

    async def stop_publishing(self) -> None:
        """Finish the write under way, and publish nothing more."""
        await self._publisher.stop()

    @property
    def placements(self) -> Mapping[str, Placement]:
        """This machine's placements as last taken, by unit."""
        return self._desired.placements

    @property
    def states(self) -> dict[str, UnitState]:
        """The states of the units here, by name."""
        return self._publisher.states

    @property
    def reboot_refusal(self) -> RebootRefusal | None:
        """Why this machine has not made the last reboot that was ordered in this boot, None if it was not refused."""
        return self._reboot_orders.refusal

    @property
    def is_to_reboot(self) -> bool:
        """True if a reboot of this machine is ordered: what is left here stays placed here."""
        return self._reboot_orders.is_due(self._desired.reboot)

    def heartbeat_answered(self, beat_revision: int) -> None:
        """The machine is registered, and its last heartbeat was answered when the store was at this revision."""
        self._publisher.wake()
        self._announcer.wake()
        self._isolation.heartbeat_answered()
        self._desired.heartbeat_answered(beat_revision)
        if self._registration.lease != self._lease:  # the machine may have been taken for dead, and its units moved
            self._desired.request_reread()
        self._lease = self._registration.lease
        self._recheck_refused()
        is_ledger_behind = self._epoch.highest_revision > self._ledger.store.revision
        if is_ledger_behind or self._desired.has_news or self._trust is StoreTrust.UNKNOWN:
            self._wake.set()

    def _recheck_refused(self) -> None:
        """Nothing signals that the obstacle to a unit has gone, so look from time to time."""
        now_s = asyncio.get_running_loop().time()
        refused = self._reporter.refused
        if refused and now_s >= self._rechecked_s + RECHECK_S:
            self._rechecked_s = now_s
            self._mark(refused)

    async def running_units(self) -> tuple[str, ...]:
        """Return the names of fleet's units that run now, in order. Raises ManagerUnavailable."""
        return await self._observer.running(self._names())

    async def wait_until_unassigned(self) -> None:
        """Wait until the leader has deleted every placement on this machine."""
        await self._is_unassigned.wait()

    def describe(self) -> dict[str, Any]:
        """Return what was carried out, is published and is followed here, under CoreOS fleet's names."""
        entries = {name: self._ledger.get(name) for name in self._ledger.names}
        carried_out = {name: entry.target for name, entry in entries.items() if entry}
        return {
            "Agent": {"Cache": {"TargetStates": carried_out}},
            "UnitStatePublisher": self._publisher.describe(),
            "UnitStateGenerator": {"Subscribed": self._names()},
        }

    # The loops.

    def _mark_one(self, name: str) -> None:
        self._mark((name,))

    def _mark(self, names: Iterable[str]) -> None:
        """Have the next pass look at these units."""
        self._dirty |= dict.fromkeys(names)
        self._wake.set()

    def _names(self) -> list[str]:
        """Return every unit with a file, a placement, a ledger entry or a state, in order."""
        here = (*self._executor.hashes, *self._ledger.names, *self._publisher.names)
        return sorted(dict.fromkeys((*here, *self._desired.placements)))

    async def _follow_systemd(self) -> None:
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        while True:
            try:
                await self._systemd.connect()
                self._executor.refresh_files()
                self._mark(self._names())
                self._has_connected.set()
                backoff.reset()
                while True:
                    self._mark(await self._systemd.wait_for_changes())
            except (ManagerUnavailable, OSError) as error:
                if backoff.is_first:
                    log.warning("cannot follow systemd, retrying: %s", error)
                await asyncio.sleep(backoff.next_s())

    async def _work(self) -> None:
        await self._has_connected.wait()
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        retry: asyncio.TimerHandle | None = None
        while True:
            await self._wake.wait()
            await self._pace.wait()
            self._wake.clear()
            if retry is not None:
                retry.cancel()  # this pass is the retry; otherwise every change would start a series of its own
            try:
                with metrics.AGENT_PASS_S.time():
                    await self._pass()
                self._pace.done()
                metrics.AGENT_PASSES.labels("done").inc()
                backoff.reset()
                continue
            except ManagerUnavailable as error:
                if backoff.is_first:
                    log.warning("cannot reach systemd; units are left as they are, retrying: %s", error)
            except Exception:
                log.exception("a pass over this machine's units failed, retrying; please report this as a bug")
            metrics.AGENT_PASSES.labels("failed").inc()
            retry = asyncio.get_running_loop().call_later(backoff.next_s(), self._wake.set)

    # One pass.

    async def _pass(self) -> None:
        self._executor.refresh_files()
        self._take_desired_state()
        if returned := await self._isolation.come_back(is_acknowledged=self._trust is StoreTrust.CURRENT):
            self._mark(returned)
        names = sorted(self._dirty)
        self._dirty.clear()
        try:
            await self._pass_over(names)
        except BaseException:
            self._dirty |= dict.fromkeys(names)
            raise
        if self._trust is StoreTrust.CURRENT:
            await self._reboot()
        if self._epoch_name:
            self._ledger.put_store(StoreSeen(self._epoch_name, self._epoch.highest_revision))
        self._has_observed.set()

    async def _reboot(self) -> None:
        """Reboot the machine if that is ordered. Names are taken back before: systemd stops all units at once."""
        reboot = self._desired.reboot
        if self._announcer.withdraw_all(is_going=self._reboot_orders.is_imminent(reboot)):
            await self._reboot_orders.carry_out(reboot)
            self._announcer.withdraw_all(is_going=self._reboot_orders.is_imminent(reboot))  # it may have been refused

    def _take_desired_state(self) -> None:
        if self._registration.lease and not self._registration.is_certain:
            return  # another machine with this id may have registered: the placements may be its; wait for a heartbeat
        was_reread, changed = self._desired.take()
        if was_reread:
            self._judge_store()
        for name in changed:
            self._retries.forget(name)  # a new placement does not wait for an older one's failure
        self._mark(changed)
        trust = self._assess_trust()
        if trust is not self._trust:
            self._mark(self._names())
            self._announcer.wake()
        self._trust = trust
        if self._desired.placements or self._desired.unreadable or not self._desired.revision:
            self._is_unassigned.clear()
        else:
            self._is_unassigned.set()
        self._wake.clear()

    def _judge_store(self) -> None:
        """Find out whether this is still the store, in the same epoch, that this machine has worked with."""
        change = self._epoch.take_change(self._ledger.store.cluster_id)
        self._epoch_name = self._epoch.name
        if change is not StoreChange.NONE:
            log.warning(
                "the store was restored from a snapshot or belongs to another cluster; "
                "every unit here is kept as it is, and units the store does not know become orphans",
                extra={"change": change.name.lower()},
            )
            self._store_change = change
            self._reboot_orders.forget(self._desired.reboot)
            self._announcer.store_restored()
            self._mark(self._names())
        self._isolation.store_read(change, self._epoch)

    def _assess_trust(self) -> StoreTrust:
        if self._store_change is not StoreChange.NONE:
            return StoreTrust.RESTORED
        if not self._registration.lease or not self._desired.is_current:
            return StoreTrust.UNKNOWN
        is_synced = self._desired.revision > 0 and self._desired.synced == self._registration.session
        return StoreTrust.CURRENT if is_synced else StoreTrust.UNSYNCED

    async def _pass_over(self, names: Sequence[str]) -> None:
        if not names:
            self._store_change = StoreChange.NONE
            return
        names = with_pairs(names, self._desired.placements, self._ledger.get)
        observed = await self._observer.observe(names)
        trust = self._assess_trust()  # the registration may have been lost during this very pass
        if trust is StoreTrust.RESTORED:
            await self._adopt(observed)
        elif trust is StoreTrust.UNKNOWN:
            self._reporter.report(observed)
            self._trust = trust
        else:
            await self._reconcile(observed, removes_unplaced=trust is StoreTrust.CURRENT)

    async def _reconcile(self, observed: Mapping[str, Observed], *, removes_unplaced: bool) -> None:
        self._release_orphans(observed)
        held = (*self._ledger.orphans, *self._desired.unreadable)
        desired = Desired(self._desired.placements, removes_unplaced, held)
        wanted = plan_machine(desired, observed)
        possible = await self._downloads.hold_back(wanted, observed, desired.placements)  # before a lock is taken
        allowed = await self._isolation.admit(possible, observed, desired.placements, is_acknowledged=removes_unplaced)
        plan = self._announcer.hold_back(allowed, observed, desired.placements)
        acted_on = dict.fromkeys(action.unit for action in plan)
        self._reporter.hold(observed, [action.unit for action in wanted if action.unit not in acted_on])
        self._reporter.report({name: seen for name, seen in observed.items() if name not in acted_on})
        for name in acted_on:
            self._reporter.forget_failure(name)
            self._downloads.done(name)
        with_new_notes = await self._executor.apply(plan)
        recorded = find_recorded(desired, plan, observed)
        done = {name: seen for name, seen in recorded.items() if not self._retries.is_waiting(name)}
        self._reporter.report(done)
        self._announcer.decide_rest(except_for=acted_on)
        self._mark((*(name for name in acted_on if name not in done), *with_new_notes))
        if any(isinstance(action, Write) for action in plan):
            self._retries.retry_failed_jobs(except_for=acted_on)

    async def _adopt(self, observed: Mapping[str, Observed]) -> None:
        """Record that every unit here is as the restored store wants it, and report them all again."""
        is_late = self._store_change is StoreChange.SET_BACK_WHILE_AWAY
        adoption = plan_adoption(self._desired.placements, observed, is_late=is_late)
        for name, entry in adoption.entries.items():
            self._ledger.put(name, entry)
        orphans, stops = self._isolation.stop_orphans(adoption)
        self._ledger.put_orphans(orphans)
        await self._executor.apply(stops)
        self._store_change = StoreChange.NONE
        self._publisher.republish()
        self._mark(self._names())

    def _release_orphans(self, observed: Mapping[str, Observed]) -> None:
        placements = self._desired.placements
        still = [
            name
            for name in self._ledger.orphans
            if name not in observed or is_orphan_still(placements.get(name), observed[name])
        ]
        self._ledger.put_orphans(tuple(still))
