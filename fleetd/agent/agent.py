"""The agent: what one machine does. Observe, plan_machine, apply, publish; and again when something changes.

A pass looks only at units that may have changed, and is right from the mirror of the store and one look at systemd:
done twice, it changes nothing. What should happen is decided in reconciler/plan.py; this shell does it, remembers what
failed, and sleeps. Nothing waits for a job of systemd: its end is a change like any other.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from fleetd import metrics
from fleetd.agent.backoff import Retries
from fleetd.agent.desired_state import DesiredSnapshot, DesiredState
from fleetd.agent.diagnostics import NO_REASON, Explanations
from fleetd.agent.executor import Executor
from fleetd.agent.ledger import Ledger, StoreSeen
from fleetd.agent.publisher import Membership, StatePublisher
from fleetd.aio import Backoff, Pace
from fleetd.membership.store_epoch import StoreEpoch, is_same_cluster
from fleetd.model.admission import refuse_names
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState, UnitState
from fleetd.model.unitfile import UnitFileError, parse_unit_file
from fleetd.reconciler.actions import Write
from fleetd.reconciler.plan import (
    CANCELED,
    NEVER_RAN,
    SKIPPED,
    Desired,
    LastRun,
    Observed,
    find_result,
    is_orphan_still,
    is_settled,
    needs_last_run,
    needs_text,
    plan_adoption,
    plan_machine,
    report,
)
from fleetd.registry.registry import Registry
from fleetd.scheduler.snapshot import requirements_of
from fleetd.store.protocol import Operation
from fleetd.systemd.protocol import REFUSED, ManagerUnavailable, ServiceManager, ServiceManagerError, UnitStatus

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 8.0
PASS_PERIOD_S = 0.02  # of many in a row; each is over all that has changed meanwhile
NO_SUCH_UNIT = "takes no such unit"
RECHECK_S = 15.0  # of what stands in the way of a unit here, with the next heartbeat
_BROKEN = ("error", "bad-setting")  # load states of a unit file that systemd cannot make sense of
_EXPLAINED = (*NEVER_RAN, SKIPPED, "assert")  # results of jobs on which the journal says more


class Agent:
    """One machine's agent. `run` does the work until it is cancelled or the agent is closed, once for all.

    `systemd` is connected by the agent, and closed by whoever made it. See Membership for who calls what when.
    """

    def __init__(
        self,
        machine_id: str,
        registry: Registry,
        systemd: ServiceManager,
        ledger: Ledger,
        membership: Membership,
        logger: logging.Logger,
    ) -> None:
        self._systemd = systemd
        self._ledger = ledger
        self._membership = membership
        self._log = logger
        self._dirty: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._pace = Pace(PASS_PERIOD_S)
        self._has_connected = asyncio.Event()
        self._has_looked = asyncio.Event()
        self._is_unordered = asyncio.Event()
        self._lease = 0  # of the registration that the orders were last read for
        self._standing = (False, False)  # whether this machine knows its orders, and absence is one
        self._was_restored = False
        self._was_away = False  # when the store was restored
        self._cluster_id = ""
        self._refused: dict[str, None] = {}  # units that this machine does not take
        self._rechecked_s = -RECHECK_S
        self._running: asyncio.Task[None] | None = None
        self._is_closed = False
        self._retries = Retries(self._mark_one)
        self._steps = Executor(systemd, ledger, self._retries, logger)
        self._explanations = Explanations(systemd, self._mark_one, logger)
        history = StoreEpoch(registry, machine_id, ledger.store.cluster_id)
        self._orders = DesiredState(registry, machine_id, self._wake.set, ledger.store.revision, history, logger)
        self._publisher = StatePublisher(registry, machine_id, membership, self._orders.know, logger)

    # What the rest of the daemon asks of it.

    async def run(self) -> None:
        """Follow the store and systemd, and bring the machine to what is asked, until cancelled."""
        self._running = asyncio.create_task(self._run())
        try:
            await self._running
        except asyncio.CancelledError:
            if not self._is_closed:
                raise

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._orders.follow())
            tasks.create_task(self._follow_systemd())
            tasks.create_task(self._publisher.run())
            tasks.create_task(self._work())

    async def close(self) -> None:
        """End `run`, and leave the units as they are."""
        self._is_closed = True
        if self._running is not None and not self._running.done():
            self._running.cancel()
            await asyncio.wait([self._running])
        self._retries.close()
        self._publisher.close()
        await self._explanations.close()

    async def publish_all(self, lease: int, first: tuple[Operation, ...] = ()) -> None:
        """Publish every state on this lease, before the machine's key is written: what runs here occupies it. Waits
        until systemd was looked at for the first time. Raises Unavailable and LeaseNotFound."""
        await self._has_looked.wait()
        await self._publisher.publish_all(lease, first)

    @property
    def placements(self) -> Mapping[str, Placement]:
        """The orders to this machine, as far as they are known, by unit."""
        return self._orders.placements

    @property
    def states(self) -> dict[str, UnitState]:
        """What is to be known of the units here, by name."""
        return self._publisher.states

    def check(self, beat_revision: int) -> None:
        """The machine is registered, and its last beat was answered when the store was at this revision."""
        self._publisher.wake()
        self._orders.check(beat_revision)
        if self._membership.lease != self._lease:  # it may have been taken for dead, and its units be elsewhere
            self._orders.read_anew()
        self._lease = self._membership.lease
        self._recheck_refused()
        news = self._orders.highest_revision > self._ledger.store.revision  # for the ledger to know
        if news or self._orders.has_news or not self._standing[0]:
            self._wake.set()

    def _recheck_refused(self) -> None:
        """Nobody says when what stood in a unit's way has gone: look at times, as long as there is such a unit."""
        now_s = asyncio.get_running_loop().time()
        if self._refused and now_s >= self._rechecked_s + RECHECK_S:
            self._rechecked_s = now_s
            self._mark(self._refused)

    async def running_units(self) -> tuple[str, ...]:
        """The names of our units that run now, in order. Raises ManagerUnavailable."""
        names = self._names()
        statuses = await self._systemd.observe(names)
        seen = {name: self._see(name, statuses[name]) for name in names}
        return tuple(name for name in names if seen[name].ours and seen[name].runs)

    async def wait_until_unordered(self) -> None:
        """Wait until the leader has taken back every order to this machine: nothing that was here is waited for."""
        await self._is_unordered.wait()

    def describe(self) -> dict[str, Any]:
        """What was carried out here, what is published and what is followed, under the names that the original uses."""
        entries = {name: self._ledger.get(name) for name in self._ledger.names}
        carried_out = {name: entry.target for name, entry in entries.items() if entry}
        return {
            "Agent": {"Cache": {"TargetStates": carried_out}},
            "UnitStatePublisher": self._publisher.describe(),
            "UnitStateGenerator": {"Subscribed": self._names()},
        }

    # What wakes it.

    def _mark_one(self, name: str) -> None:
        self._mark((name,))

    def _mark(self, names: Iterable[str]) -> None:
        """These units may have changed: look at them in the next pass."""
        self._dirty |= dict.fromkeys(names)
        self._wake.set()

    def _names(self) -> list[str]:
        """Every unit that there is anything of: a file, a placement, an entry or a state."""
        here = (*self._steps.hashes, *self._ledger.names, *self._publisher.names)
        return sorted(dict.fromkeys((*here, *self._orders.placements)))

    async def _follow_systemd(self) -> None:
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        while True:
            try:
                await self._systemd.connect()
                self._steps.refresh_files()
                self._mark(self._names())
                self._has_connected.set()
                backoff.reset()
                while True:
                    self._mark(await self._systemd.wait_for_changes())
            except (ManagerUnavailable, OSError) as error:
                if backoff.is_first:
                    self._log.warning("systemd cannot be followed, trying on: %s", error)
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
                retry.cancel()  # this pass is it: otherwise each thing that happens meanwhile adds a series of retries
            try:
                with metrics.AGENT_PASS_S.time():
                    await self._pass()
                self._pace.done()
                metrics.AGENT_PASSES.labels("done").inc()
                backoff.reset()
                continue
            except ManagerUnavailable as error:
                if backoff.is_first:
                    self._log.warning("units are left as they are, trying on: %s", error)
            except Exception:
                self._log.exception("a pass over this machine's units failed; fleetd retries it")
            metrics.AGENT_PASSES.labels("failed").inc()
            retry = asyncio.get_running_loop().call_later(backoff.next_s(), self._wake.set)

    # One pass.

    async def _pass(self) -> None:
        self._steps.refresh_files()
        self._take_orders()
        names = sorted(self._dirty)
        self._dirty.clear()
        try:
            await self._pass_over(names)
        except BaseException:
            self._dirty |= dict.fromkeys(names)
            raise
        if self._cluster_id:
            self._ledger.put_store(StoreSeen(self._cluster_id, self._orders.highest_revision))
        self._has_looked.set()

    def _take_orders(self) -> None:
        if self._membership.lease and not self._membership.is_certain:
            return  # what is asked now may be asked of a clone that has taken this one's place; the next beat tells
        reading, changed = self._orders.take()
        if reading is not None:
            self._judge(reading)
        for name in changed:
            self._retries.forget(name)  # a new wish is not to wait for an old one's failure
        self._mark(changed)
        standing = (self._has_orders, self._absence_is_order)
        if standing != self._standing:
            self._mark(self._names())
        self._standing = standing
        if self._orders.placements or self._orders.unreadable or not self._orders.revision:
            self._is_unordered.clear()
        else:
            self._is_unordered.set()
        self._wake.clear()

    def _judge(self, reading: DesiredSnapshot) -> None:
        """Tell a store that was restored, or set up anew, from the one this machine has worked for."""
        before = self._ledger.store.cluster_id
        self._cluster_id = reading.history
        if reading.fell or before not in ("", reading.history):
            what = "its revision fell" if reading.fell else "it was restored meanwhile, or is another cluster's"
            self._log.warning("the store is not the one it was (%s): all units are held as they are", what)
            self._was_restored = True
            self._was_away = not reading.fell and is_same_cluster(before, reading.history)
            self._mark(self._names())

    @property
    def _has_orders(self) -> bool:
        """Whether the orders are for this machine, as it stands registered now."""
        return self._membership.lease != 0 and self._orders.is_current

    @property
    def _absence_is_order(self) -> bool:
        known = self._orders.revision > 0 and not self._was_restored
        return known and self._orders.synced == self._membership.session

    async def _pass_over(self, names: Sequence[str]) -> None:
        if not names:
            self._was_restored = False
            return
        observed = await self._observe(names)
        if self._was_restored:
            self._adopt(observed)
            return
        if not self._has_orders:
            self._report(observed)  # the orders may be for another machine: one with this id that lives (a clone)
            self._standing = (False, self._absence_is_order)  # it may have been lost in this very pass, and be back
            return
        self._release_orphans(observed)
        held = (*self._ledger.orphans, *self._orders.unreadable)
        plan = plan_machine(Desired(self._orders.placements, self._absence_is_order, held), observed)
        stepped = dict.fromkeys(step.unit for step in plan)
        self._report({name: seen for name, seen in observed.items() if name not in stepped})
        for name in stepped:
            self._explanations.forget(name)
        noted = await self._steps.apply(plan)
        self._mark((*stepped, *noted))
        if any(isinstance(step, Write) for step in plan):
            self._retries.hasten(besides=stepped)

    def _adopt(self, observed: Mapping[str, Observed]) -> None:
        """The store was restored: write down that what is here is what it asks for, and report everything anew."""
        adoption = plan_adoption(self._orders.placements, observed, is_late=self._was_away)
        for name, entry in adoption.entries.items():
            self._ledger.put(name, entry)
        self._ledger.put_orphans(adoption.orphans)
        self._was_restored = False
        self._publisher.publish_anew()
        self._mark(self._names())

    def _release_orphans(self, observed: Mapping[str, Observed]) -> None:
        placements = self._orders.placements
        still = [
            name
            for name in self._ledger.orphans
            if name not in observed or is_orphan_still(placements.get(name), observed[name])
        ]
        self._ledger.put_orphans(tuple(still))

    # Observing and reporting.

    async def _observe(self, names: Sequence[str]) -> dict[str, Observed]:
        statuses = await self._systemd.observe(names)
        for name in names:
            self._note_never_ran(statuses[name])
        observed = {name: self._see(name, statuses[name]) for name in names}
        asked = [name for name in names if needs_last_run(self._orders.placements.get(name), observed[name])]
        for name, last_run in zip(asked, await asyncio.gather(*map(self._ask_last_run, asked)), strict=True):
            observed[name] = msgspec.structs.replace(observed[name], last_run=last_run)
        replaced = [name for name in names if needs_text(self._orders.placements.get(name), observed[name])]
        texts = self._systemd.read_files() if replaced else {}
        for name in replaced:
            observed[name] = msgspec.structs.replace(observed[name], text=texts.get(name, ""))
        return observed

    def _see(self, name: str, status: UnitStatus) -> Observed:
        file_hash = self._steps.hashes.get(name, "")
        is_news = not file_hash and name in self._orders.placements
        refusal, obstacle = self._find_refusal(name, status) if is_news else ("", "")
        lacks = self._find_lacking(name) if is_news and not refusal else ""
        if lacks:
            refusal = f"{name} has Accept=yes and starts an instance of {lacks} for each connection; submit {lacks}"
            obstacle = f"lacks {lacks}"
        return Observed(
            hash=file_hash,
            load=status.load,
            active=status.active,
            sub=status.sub,
            job=status.job,
            entry=self._ledger.get(name),
            stop=self._steps.stop_progress(status),
            waiting=self._retries.is_waiting(name),
            job_result=self._systemd.job_result(name),
            refusal=refusal,
            obstacle=obstacle,
            lacks=lacks,
        )

    def _find_refusal(self, name: str, status: UnitStatus) -> tuple[str, str]:
        """Why no unit of this name and content may be written here, for a person and in short; or ''."""
        taken = self._steps.obstacle(status)
        if taken:
            return self._retries.error(name) or f"{name}: this machine {taken}; choose another name", taken
        text = self._orders.placements[name].text
        try:
            options = parse_unit_file(text) if "[Install]" in text else ()
        except UnitFileError:
            options = ()
        refusal = refuse_names(name, options, self._systemd.shadows)
        path = self._systemd.shadows(name) if refusal and "." in name else ""
        return refusal, f"has its own {path}" if path else NO_SUCH_UNIT if refusal else ""

    def _find_lacking(self, name: str) -> str:
        """The template that a socket needs for connections, if neither the cluster nor the machine has it."""
        template = requirements_of(self._orders.placements[name].text, name).template
        order = self._orders.placements.get(template)
        is_coming = order is not None and not order.is_withdrawn
        return "" if not template or is_coming or self._systemd.shadows(template) else template

    def _note_never_ran(self, status: UnitStatus) -> None:
        """A job that ended before the unit could run was accepted, and yet nothing was carried out."""
        name, entry = status.name, self._ledger.get(status.name)
        if entry is None or status.job:
            return
        result = self._systemd.job_result(name)
        if entry.restarting and entry.restarting.invocation is not None:
            if result == CANCELED:
                due = msgspec.structs.replace(entry.restarting, invocation=None)
                self._ledger.put(name, msgspec.structs.replace(entry, restarting=due))
                self._retries.note(name, f"the restart of {name} was canceled by another job")
            return
        if not entry.issued or entry.adopted or entry.generation == 0 or status.active not in ("inactive", "failed"):
            return
        if entry.target is TargetState.LAUNCHED and result in NEVER_RAN:
            self._ledger.put(name, msgspec.structs.replace(entry, generation=0, issued=False))
            words = "systemd refused to start it" if result == REFUSED else "a unit that it needs failed"
            self._retries.note(name, f"{name} was not started: {words} ({result})", result)

    async def _ask_last_run(self, name: str) -> LastRun | None:
        try:
            details = await self._systemd.details(name)
        except ManagerUnavailable:
            raise
        except ServiceManagerError as error:
            self._log.warning("%s: what became of its last run is not known: %s", name, error)
            return None
        return LastRun(details.invocation, details.result, details.oneshot)

    def _report(self, observed: Mapping[str, Observed]) -> None:
        for name, seen in observed.items():
            placement = self._orders.placements.get(name)
            if is_settled(placement, seen):
                self._retries.forget(name)
            is_broken = seen.ours and seen.load in _BROKEN
            result = find_result(seen, self._retries.result(name))
            in_journal = result in _EXPLAINED and result in (seen.job_result, seen.entry and seen.entry.result)
            has_words = is_broken or (in_journal and not seen.busy)
            self._explanations.look_at(name, has_failed=has_words or (seen.ours and seen.active == "failed"))
            if has_words and self._explanations.is_awaited(name):
                continue  # a refused start says that a setting is bad, the explanation says which
            error = self._find_error(name, has_words)
            is_skipped = result == SKIPPED and not is_broken
            state = report(
                placement,
                seen,
                error="" if is_skipped else error,
                result=result,
                note=(error if is_skipped else "") or self._steps.note(name),
                orphan=name in self._ledger.orphans,
            )
            if state is not None and state.refusal:
                self._refused[name] = None
            else:
                self._refused.pop(name, None)
            self._publisher.set(name, state)

    def _find_error(self, name: str, has_words: bool) -> str:
        """Why a step for the unit failed, or the unit itself. Where systemd has words of its own on that, they say more
        than those with which it refuses a step."""
        refused, explained = self._retries.error(name), self._explanations.text(name)
        if has_words and explained not in ("", NO_REASON):
            return explained
        return refused or explained
