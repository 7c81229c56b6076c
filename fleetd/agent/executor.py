"""Applies the actions of a plan to one machine: its unit files, its systemd, its ledger.

The order is the one in which units that need each other come up: all stops, all removals, all files, one daemon-reload
if systemd needs one, then all starts together. When an action fails, the unit's further actions are skipped and retried
later; the other units go on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from fleetd import metrics
from fleetd.agent.credentials import Credentials, SecretNotThere
from fleetd.agent.fetcher import Fetcher
from fleetd.agent.ledger import Ledger
from fleetd.agent.links import Links
from fleetd.agent.unit_retries import UnitRetries
from fleetd.model.confinement import NO_LIMITS, Limits, confined, is_confined, refuse_privileges, unconfined
from fleetd.model.content import Content, DropIn
from fleetd.model.download import Download
from fleetd.model.isolation import IsolationOptions
from fleetd.model.isolation_dropin import find_isolating, isolating_dropins, without_isolating
from fleetd.model.job_result import REFUSED
from fleetd.model.secret import SecretRef
from fleetd.reconciler.actions import Action, Applied, Record, Reload, Remove, Restart, Start, Stop, Write
from fleetd.reconciler.observed import StopProgress
from fleetd.systemd.protocol import (
    JobRefused,
    ManagerUnavailable,
    NameTaken,
    ServiceManager,
    ServiceManagerError,
    UnitStatus,
)

log = logging.getLogger(__name__)

MAX_CONCURRENT = 32  # systemd handles one request after the other; more in flight only take memory, for good

_AnyAction = TypeVar("_AnyAction", Stop, Reload, Start | Restart)


def read_contents(systemd: ServiceManager) -> dict[str, Content]:
    """Return the contents that fleet has written on this machine, by unit. Raises OSError."""
    dropins = systemd.read_dropins()
    return {name: Content(text, dropins.get(name, ())) for name, text in systemd.read_files().items()}


def as_placed(contents: Mapping[str, Content], limits: Limits) -> tuple[dict[str, Content], dict[str, None]]:
    """Return these contents without what confines and isolates the units, and the units that have to be confined and
    are not."""
    contents = {name: without_isolating(name, content) for name, content in contents.items()}
    if not limits.confine:
        return contents, {}
    bare = {name: unconfined(content) for name, content in contents.items() if is_confined(name, content)}
    return {**contents, **bare}, dict.fromkeys(contents.keys() - bare.keys())


class Executor:
    """Executes plans. `hashes` are those of the contents that are written, by unit, as of the last `refresh_files`.
    `secrets_of` returns the secrets that a unit is to have, which `credentials` puts where systemd asks for them.
    `downloads_of` returns what it needs, which `fetcher` puts where it finds it.
    `limits` are this machine's, and `unconfined` the units that have to be confined and are not. `isolating` are those
    that have to be stopped where the machine is cut off, as they are written."""

    def __init__(
        self,
        machine_id: str,
        systemd: ServiceManager,
        ledger: Ledger,
        retries: UnitRetries,
        credentials: Credentials | None = None,
        secrets_of: Callable[[str], Sequence[SecretRef]] = lambda unit: (),
        limits: Limits = NO_LIMITS,
        fetcher: Fetcher | None = None,
        downloads_of: Callable[[str], Sequence[Download]] = lambda unit: (),
    ) -> None:
        self._systemd = systemd
        self._ledger = ledger
        self._retries = retries
        self._credentials = credentials
        self._secrets_of = secrets_of
        self._fetcher = fetcher
        self._downloads_of = downloads_of
        self.limits = limits
        self._links = Links(machine_id, systemd, ledger)
        self._files_are_known = False
        self._stops: dict[str, None] = {}  # units that fleetd stopped, and has not started since
        self._changed_files: dict[str, None] = {}  # units whose files changed since the last reload check
        self.hashes: dict[str, str] = {}
        self.unconfined: dict[str, None] = {}
        self.isolating: dict[str, IsolationOptions] = {}
        self._taken: dict[str, NameTaken] = {}  # units whose file cannot be written for this

    def refresh_files(self) -> None:
        """Read the files, unless they are known already. Raises OSError."""
        if not self._files_are_known:
            contents, self.unconfined = as_placed(read_contents(self._systemd), self.limits)
            self.hashes = {name: content.hash for name, content in contents.items()}
            self.isolating = find_isolating(contents.items())
            # A link would have a confined unit started by others, without a check.
            self._links.read({} if self.limits.confine else contents)
            self._files_are_known = True

    def taken_error(self, status: UnitStatus) -> NameTaken | None:
        """Return the error if the unit's file could not be written because the machine has a unit of this name. It is
        forgotten once systemd has no such unit any more."""
        if status.load == "not-found":
            self._taken.pop(status.name, None)
        return self._taken.get(status.name)

    def stop_progress(self, status: UnitStatus) -> StopProgress:
        """Return how far the stop is that fleetd asked for."""
        if status.name not in self._stops:
            return StopProgress.NONE
        under_way = status.job or status.active == "deactivating"
        return StopProgress.UNDER_WAY if under_way else StopProgress.ENDED

    def note(self, name: str) -> str:
        """Return which parts of the unit's [Install] have no effect here, and why; '' if all of it has."""
        return self._links.note(name)

    async def apply(self, plan: Sequence[Action]) -> tuple[str, ...]:
        """Execute the actions. Returns the units whose `note` has changed.

        Raises ManagerUnavailable; then any of the actions may or may not have been done.
        """
        last = {action.unit: action for action in plan}  # the action that the unit's others lead up to
        for action in plan:
            kind = type(action).__name__.lower()
            metrics.STEPS.labels(kind).inc()
            level = logging.INFO if action is last[action.unit] else logging.DEBUG
            log.log(level, "%s %s: %s", kind, action.unit, action.reason)
        await self._each([action for action in plan if isinstance(action, Stop)], self._stop)
        await self._remove([action.unit for action in plan if isinstance(action, Remove)])
        await self._prepare_secrets([action.unit for action in plan if not isinstance(action, Stop | Remove)])
        self._prepare_files([action.unit for action in plan if not isinstance(action, Stop | Remove)])
        await self._write([action for action in plan if isinstance(action, Write)])
        with_new_notes = await self._links.follow()
        for action in self._viable(plan):
            if isinstance(action, Record):
                self._record(action)
        needs_reload = (Reload, Start, Restart)
        await self._reload([action.unit for action in self._viable(plan) if isinstance(action, needs_reload)])
        await self._each([action for action in self._viable(plan) if isinstance(action, Reload)], self._finish_reload)
        jobs = [action for action in self._viable(plan) if isinstance(action, Start | Restart)]
        await self._each(jobs, self._queue_job)
        return with_new_notes

    def _viable(self, plan: Sequence[Action]) -> list[Action]:
        """Return the actions of units for which none has failed."""
        return [action for action in plan if not self._retries.is_waiting(action.unit)]

    async def _each(self, actions: Sequence[_AnyAction], do: Callable[[_AnyAction], Awaitable[None]]) -> None:
        """Call `do` for all of the actions, started in order, at most MAX_CONCURRENT at once."""
        left = iter(actions)
        outages: list[ManagerUnavailable] = []

        async def work() -> None:
            for action in left:
                try:
                    await do(action)
                except ManagerUnavailable as error:
                    outages.append(error)
                except (ServiceManagerError, OSError) as error:
                    self._fail(type(action).__name__.lower(), action.unit, error)

        workers = (work() for _ in range(min(MAX_CONCURRENT, len(actions))))
        ends: list[BaseException | None] = await asyncio.gather(*workers, return_exceptions=True)
        for error in (*filter(None, ends), *outages):
            raise error

    def _fail(self, kind: str, name: str, error: Exception) -> None:
        metrics.STEPS_FAILED.labels(kind).inc()
        log.warning("%s", error if name in str(error) else f"{name}: {error}")
        self._retries.record(name, str(error), REFUSED if isinstance(error, JobRefused) else "")

    async def _stop(self, action: Stop) -> None:
        if action.entry is not None:
            self._ledger.put(action.unit, action.entry)
        await self._systemd.stop(action.unit)
        if action.unit in self._stops:  # with back-off: something may start the unit again each time
            words = f"{action.unit} is active again after fleetd stopped it; systemctl status shows what triggers it"
            self._fail("stop", action.unit, ServiceManagerError(words))
        self._stops[action.unit] = None

    async def _queue_job(self, action: Start | Restart) -> None:
        if self.limits.confine:
            refusal = refuse_privileges(action.unit, await self._systemd.privileges(action.unit))
            if refusal:
                raise ServiceManagerError(refusal)
        await (self._start(action) if isinstance(action, Start) else self._restart(action))

    async def _restart(self, action: Restart) -> None:
        """Record the invocation that is to end before the job is queued: any later one already runs with the new file,
        even if systemd started it by itself."""
        restarting = action.entry.restarting
        assert restarting is not None
        ends = (await self._systemd.last_run(action.unit)).invocation
        due = msgspec.structs.replace(restarting, invocation=ends)
        self._ledger.put(action.unit, msgspec.structs.replace(action.entry, restarting=due, applied=_applied_now()))
        await self._systemd.restart(action.unit)
        self._stops.pop(action.unit, None)

    async def _start(self, action: Start) -> None:
        before = self._ledger.get(action.unit)
        entry = msgspec.structs.replace(action.entry, applied=_applied_now())
        self._ledger.put(action.unit, entry)
        try:
            await self._systemd.start(action.unit)
        except ManagerUnavailable:
            raise  # it may have been started: keep the entry, the next pass finds out
        except ServiceManagerError:
            if before is None or before == action.entry:
                self._ledger.forget(action.unit)
            else:
                self._ledger.put(action.unit, before)
            raise
        self._ledger.put(action.unit, msgspec.structs.replace(entry, issued=True))
        self._stops.pop(action.unit, None)

    async def _finish_reload(self, action: Reload) -> None:
        if action.reloads_unit:
            await self._systemd.reload_unit(action.unit)
        restarts = (await self._systemd.last_run(action.unit)).restarts
        self._ledger.put(action.unit, msgspec.structs.replace(action.entry, applied=_applied_now(restarts)))
        self._stops.pop(action.unit, None)

    def _record(self, action: Record) -> None:
        try:
            self._ledger.put(action.unit, action.entry)
        except OSError as error:
            self._fail("record", action.unit, error)
        else:
            self._stops.pop(action.unit, None)

    async def _prepare_secrets(self, names: Iterable[str]) -> None:
        """Have the secrets of these units where systemd gets them. A unit without them is not started."""
        if self._credentials is None:
            return
        for name in dict.fromkeys(names):
            try:
                await self._credentials.prepare(name, self._secrets_of(name))
            except (SecretNotThere, OSError) as error:
                self._fail("secrets", name, error)

    def _prepare_files(self, names: Iterable[str]) -> None:
        """Have the files of these units where they find them. They are here: what would need others has waited."""
        if self._fetcher is None:
            return
        for name in dict.fromkeys(names):
            try:
                self._fetcher.prepare(name, self._downloads_of(name))
            except OSError as error:
                self._fail("files", name, error)

    async def _remove(self, names: Sequence[str]) -> None:
        failures = await self._change_files(self._systemd.remove(names)) if names else {}
        for name in names:
            if name in failures:
                self._fail("remove", name, failures[name])
            else:
                self._ledger.forget(name)
                self.hashes.pop(name, None)
                self.unconfined.pop(name, None)
                self.isolating.pop(name, None)
                self._links.forget(name)
                if self._credentials:
                    self._credentials.forget(name)
                if self._fetcher is not None:
                    self._fetcher.forget(name)
                self._stops.pop(name, None)
                self._changed_files[name] = None

    async def _write(self, actions: Sequence[Write]) -> None:
        contents: dict[str, Content] = {}
        for action in actions:
            try:
                if action.entry is not None:
                    self._ledger.put(action.unit, action.entry)
            except OSError as error:
                self._fail("write", action.unit, error)
            else:
                contents[action.unit] = action.content
        files = {name: content.text for name, content in contents.items()}
        dropins = {
            name: (*self._limit(name, content), *isolating_dropins(name, content)) for name, content in contents.items()
        }
        dropins = {name: found for name, found in dropins.items() if found}
        failures = await self._change_files(self._systemd.write(files, dropins)) if files else {}
        for name, content in contents.items():
            failure = failures.get(name)
            if isinstance(failure, NameTaken):
                self._taken[name] = failure
            if failure:
                self._fail("write", name, failure)
            else:
                self.hashes[name] = content.hash
                self.unconfined.pop(name, None)
                self.isolating.pop(name, None)
                self.isolating |= find_isolating([(name, content)])
                if not self.limits.confine:
                    self._links.put(name, content)
                self._changed_files[name] = None

    def _limit(self, name: str, content: Content) -> Sequence[DropIn]:
        return confined(name, content).dropins if self.limits.confine else content.dropins

    async def _change_files(self, change: Awaitable[Mapping[str, Exception]]) -> Mapping[str, Exception]:
        """Wait for this change of unit files. Unless all of it succeeds, have the files read again: one that was not
        written may be gone, or be the old one."""
        were_known, self._files_are_known = self._files_are_known, False
        failures = await change
        self._files_are_known = were_known and not failures
        return failures

    async def _reload(self, starting: Sequence[str]) -> None:
        """Run daemon-reload if systemd needs it for the changed files or for the units about to be started."""
        names = list(dict.fromkeys((*self._changed_files, *starting)))
        if not names:
            return
        try:
            if await self._systemd.reload_needed(names):
                await self._systemd.reload()
        except ManagerUnavailable:
            raise
        except ServiceManagerError as error:
            for name in names:
                self._fail("reload", name, error)
            return
        self._changed_files.clear()


def _applied_now(restarts: int = 0) -> Applied:
    """What is begun now: the loop's clock is the monotonic one of the machine."""
    return Applied(asyncio.get_running_loop().time(), restarts)
