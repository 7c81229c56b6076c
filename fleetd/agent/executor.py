"""Applies the steps of a plan to one machine: its unit files, its systemd, its ledger.

The order is the one in which units that need each other come up: all stops, all removals, all files, one reload if
systemd needs one, all starts at once. A step that fails is its unit's own affair: it is noted to be tried again, the
unit's further steps are left out, and all other units go on. Which steps, and why, is reconciler/plan.py's matter.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from fleetd import metrics
from fleetd.agent.backoff import Retries
from fleetd.agent.ledger import Ledger
from fleetd.agent.links import Links
from fleetd.model.unitfile import hash_unit_file
from fleetd.reconciler.actions import Action, Record, Reload, Remove, Restart, Start, Stop, Write
from fleetd.reconciler.plan import StopProgress
from fleetd.systemd.protocol import (
    REFUSED,
    JobRefused,
    ManagerUnavailable,
    NameTaken,
    ServiceManager,
    ServiceManagerError,
    UnitStatus,
)

AT_ONCE = 32  # systemd works at one job after the other anyway, and memory that a crowd of them takes is kept

_AnyStep = TypeVar("_AnyStep", Stop, Start | Restart)


class Executor:
    """One machine's hands. `hashes` is what our unit files hold, by unit, as of the last `refresh_files`."""

    def __init__(self, systemd: ServiceManager, ledger: Ledger, retries: Retries, logger: logging.Logger) -> None:
        self._systemd = systemd
        self._ledger = ledger
        self._retries = retries
        self._log = logger
        self._links = Links(systemd, ledger, logger)
        self._files_are_known = False
        self._stops: dict[str, None] = {}  # units that were told to stop, and not to start since
        self._to_reload_for: dict[str, None] = {}  # units whose files changed since systemd was last asked about them
        self.hashes: dict[str, str] = {}
        self.obstacles: dict[str, str] = {}  # units that cannot be written, for the machine has its own of that name

    def forget_files(self) -> None:
        """The files may not be as they were left."""
        self._files_are_known = False

    def refresh_files(self) -> None:
        """Read the files, unless they are known. Raises OSError."""
        if not self._files_are_known:
            texts = self._systemd.read_files()
            self.hashes = {name: hash_unit_file(text) for name, text in texts.items()}
            self._links.read(texts)
            self._files_are_known = True

    def obstacle(self, status: UnitStatus) -> str:
        """What hindered this unit from being written, if systemd has that still."""
        if status.load == "not-found":
            self.obstacles.pop(status.name, None)
        return self.obstacles.get(status.name, "")

    def stop_progress(self, status: UnitStatus) -> StopProgress:
        """How far the stop is that this unit was told to, if it was."""
        if status.name not in self._stops:
            return StopProgress.NONE
        under_way = status.job or status.active == "deactivating"
        return StopProgress.UNDER_WAY if under_way else StopProgress.ENDED

    def note(self, name: str) -> str:
        """What of the unit's [Install] has no effect here, and why; '' where all has."""
        return self._links.note(name)

    async def apply(self, plan: Sequence[Action]) -> tuple[str, ...]:
        """Apply the steps; the units of which there is something else to note than before. Raises ManagerUnavailable;
        then any of the steps may or may not have been done."""
        ends = {step.unit: step for step in plan}  # what a unit's other steps are for: the one that is worth a line
        for step in plan:
            kind = type(step).__name__.lower()
            metrics.STEPS.labels(kind).inc()
            level = logging.INFO if step is ends[step.unit] else logging.DEBUG
            self._log.log(level, "%s %s: %s", kind, step.unit, step.reason)
        await self._each([step for step in plan if isinstance(step, Stop)], self._stop)
        await self._remove([step.unit for step in plan if isinstance(step, Remove)])
        await self._write([step for step in plan if isinstance(step, Write)])
        noted = await self._links.follow()
        for step in self._goes_on(plan):
            if isinstance(step, Record):
                self._record(step)
        await self._reload([step.unit for step in self._goes_on(plan) if isinstance(step, Reload | Start | Restart)])
        for step in self._goes_on(plan):
            if isinstance(step, Reload):
                self._record(step)
        await self._each([step for step in self._goes_on(plan) if isinstance(step, Start | Restart)], self._begin)
        return noted

    def _goes_on(self, plan: Sequence[Action]) -> list[Action]:
        """The steps of units for which none has failed."""
        return [step for step in plan if not self._retries.is_waiting(step.unit)]

    async def _each(self, steps: Sequence[_AnyStep], do: Callable[[_AnyStep], Awaitable[None]]) -> None:
        """Do this for all of the steps, begun in their order, some at once."""
        left = iter(steps)
        outages: list[ManagerUnavailable] = []

        async def work() -> None:
            for step in left:
                try:
                    await do(step)
                except ManagerUnavailable as error:
                    outages.append(error)
                except (ServiceManagerError, OSError) as error:
                    self._fail(type(step).__name__.lower(), step.unit, error)

        workers = (work() for _ in range(min(AT_ONCE, len(steps))))
        ends: list[BaseException | None] = await asyncio.gather(*workers, return_exceptions=True)
        for error in (*filter(None, ends), *outages):
            raise error

    def _fail(self, kind: str, name: str, error: Exception) -> None:
        metrics.STEPS_FAILED.labels(kind).inc()
        self._log.warning("%s", error if name in str(error) else f"{name}: {error}")
        self._retries.note(name, str(error), REFUSED if isinstance(error, JobRefused) else "")

    async def _stop(self, step: Stop) -> None:
        if step.entry is not None:
            self._ledger.put(step.unit, step.entry)
        await self._systemd.stop(step.unit)
        if step.unit in self._stops:  # else something that starts it again and again would keep us busy
            self._fail("stop", step.unit, ServiceManagerError(f"{step.unit} became active again after it was stopped"))
        self._stops[step.unit] = None

    async def _begin(self, step: Start | Restart) -> None:
        await (self._start(step) if isinstance(step, Start) else self._restart(step))

    async def _restart(self, step: Restart) -> None:
        """Between the reload and the job the ledger keeps what is to end: a unit that systemd has started anew by
        itself since then runs with what it has read."""
        restarting = step.entry.restarting
        assert restarting is not None
        ends = (await self._systemd.details(step.unit)).invocation
        due = msgspec.structs.replace(restarting, invocation=ends)
        self._ledger.put(step.unit, msgspec.structs.replace(step.entry, restarting=due))
        await self._systemd.restart(step.unit)
        self._stops.pop(step.unit, None)

    async def _start(self, step: Start) -> None:
        before = self._ledger.get(step.unit)
        self._ledger.put(step.unit, step.entry)
        try:
            await self._systemd.start(step.unit)
        except ManagerUnavailable:
            raise  # it may have been started: the entry stays, and the next pass finds out
        except ServiceManagerError:
            if before is None or before == step.entry:
                self._ledger.forget(step.unit)
            else:
                self._ledger.put(step.unit, before)
            raise
        self._ledger.put(step.unit, msgspec.structs.replace(step.entry, issued=True))
        self._stops.pop(step.unit, None)

    def _record(self, step: Record | Reload) -> None:
        try:
            self._ledger.put(step.unit, step.entry)
        except OSError as error:
            self._fail(type(step).__name__.lower(), step.unit, error)
        else:
            self._stops.pop(step.unit, None)

    async def _remove(self, names: Sequence[str]) -> None:
        failures = await self._all_or_singly(names, self._remove_files)
        for name in names:
            if name in failures:
                self._fail("remove", name, failures[name])
            else:
                self._ledger.forget(name)
                self.hashes.pop(name, None)
                self._links.forget(name)
                self._stops.pop(name, None)
                self._to_reload_for[name] = None

    async def _remove_files(self, names: Sequence[str]) -> Mapping[str, ServiceManagerError]:
        await self._systemd.remove(names)
        return {}

    async def _write(self, steps: Sequence[Write]) -> None:
        files = {}
        for step in steps:
            try:
                if step.entry is not None:
                    self._ledger.put(step.unit, step.entry)
            except OSError as error:
                self._fail("write", step.unit, error)
            else:
                files[step.unit] = step.text

        async def write(names: Sequence[str]) -> Mapping[str, ServiceManagerError]:
            return await self._systemd.write({name: files[name] for name in names})

        failures = await self._all_or_singly(list(files), write)
        for name, text in files.items():
            failure = failures.get(name)
            if isinstance(failure, NameTaken):
                self.obstacles[name] = failure.obstacle
            if failure:
                self._fail("write", name, failure)
            else:
                self.hashes[name] = hash_unit_file(text)
                self._links.put(name, text)
                self._to_reload_for[name] = None

    async def _all_or_singly(
        self, names: Sequence[str], call: Callable[[Sequence[str]], Awaitable[Mapping[str, ServiceManagerError]]]
    ) -> dict[str, Exception]:
        """Do this for all units in one call; where that fails as a whole, for each by itself. Failures by unit."""
        if not names:
            return {}
        try:
            failures: dict[str, Exception] = dict(await call(names))
        except ManagerUnavailable:
            self.forget_files()
            raise
        except (ServiceManagerError, OSError) as error:
            if len(names) == 1:
                failures = {names[0]: error}
            else:
                failures = {}
                for name in names:
                    failures |= await self._all_or_singly([name], call)
        if failures:
            self.forget_files()  # a file that could not be written may be gone, or be the old one
        return failures

    async def _reload(self, starting: Sequence[str]) -> None:
        """Have systemd read the files again, if it must for what was changed and for what is to be started."""
        names = list(dict.fromkeys((*self._to_reload_for, *starting)))
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
        self._to_reload_for.clear()
