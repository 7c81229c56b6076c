"""Downloads what units need on this machine, before anything is stopped or started for them.

What somebody waits for is looked for first, and downloaded only if it is not here. What nobody waits for any more is
not downloaded on. After a failure the machine takes no unit that needs it, for a while that grows with each failure.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

import msgspec

from fleetd.agent.fetcher import Fetcher
from fleetd.model.download import Download, FetchFailed
from fleetd.model.placement import Placement
from fleetd.model.requirements import requirements_of
from fleetd.reconciler.actions import Action
from fleetd.reconciler.downloading import find_needed, hold_for_downloads
from fleetd.reconciler.observed import Observed

log = logging.getLogger(__name__)

AT_ONCE = 2  # downloads; more would only take longer each
LOOK_S = 2.0  # for so long a pass waits to see whether a download is needed at all
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 120.0
TIDY_S = 3600.0
FORGOTTEN_S = 1800.0  # after so long without one, a failure is the first again


class _Wanted(msgspec.Struct):
    """A download that `units` wait for. `is_there` is None until that is known."""

    units: dict[str, None]
    is_there: bool | None = None
    task: asyncio.Task[None] | None = None
    has_looked: asyncio.Event | None = None


class _Failure(msgspec.Struct):
    """A download that failed: why, as a predicate of the machine, how long it is not tried again, until when on the
    machine's monotonic clock, and the units that wait for that."""

    why: str
    pause_s: float
    until_s: float
    units: dict[str, None]


class Downloads:
    """The downloads of one machine. `mark` has the agent look at a unit again. `find_placements` returns the placements
    here, None while they are not known for sure. Needs a running event loop."""

    def __init__(
        self,
        fetcher: Fetcher,
        mark: Callable[[str], None],
        find_placements: Callable[[], Mapping[str, Placement] | None] = lambda: None,
    ) -> None:
        self._find_placements = find_placements
        self._tidying: asyncio.TimerHandle | None = None
        self._tidier: asyncio.Task[None] | None = None
        self._fetcher = fetcher
        self._mark = mark
        self._units: dict[str, tuple[Download, ...]] = {}
        self._wanted: dict[Download, _Wanted] = {}
        self._failures: dict[Download, _Failure] = {}
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._is_closing = False
        self._tidy_later()

    async def close(self) -> None:
        """Follow no download any more. Those under way go on without this fleetd."""
        self._is_closing = True
        if self._tidying is not None:
            self._tidying.cancel()
        tasks = [wanted.task for wanted in self._wanted.values() if wanted.task]
        tasks += [self._tidier] if self._tidier is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def hold_back(
        self, plan: Sequence[Action], observed: Mapping[str, Observed], placements: Mapping[str, Placement]
    ) -> tuple[Action, ...]:
        """The actions of the plan for the observed units that need not wait for a download. Downloads are begun, and
        those ended that nobody waits for any more."""
        needed = find_needed(plan, observed, placements)
        for name in observed:
            if name in self._units and self._units[name] != needed.get(name):
                self._release(name)
        if not needed:
            return tuple(plan)
        for name, downloads in needed.items():
            self._units[name] = downloads
            for each in downloads:
                self._want(each, name)
        looks = [wanted.has_looked.wait() for wanted in self._wanted.values() if wanted.has_looked is not None]
        if looks:
            await asyncio.wait([asyncio.ensure_future(look) for look in looks], timeout=LOOK_S)
        return hold_for_downloads(plan, needed, self._is_there).plan

    def done(self, name: str) -> None:
        """What the unit waited for was used: whether it is there is found out anew at the next time."""
        if name in self._units:
            self._release(name)

    def is_ready(self, name: str) -> bool:
        """True if the unit waits for something, and all of it is there."""
        return name in self._units and all(map(self._is_there, self._units[name]))

    def note(self, name: str) -> str:
        """What is being downloaded for the unit, as a sentence about it; '' for nothing."""
        missing = [each for each in self._units.get(name, ()) if not self._is_there(each)]
        return f"waits for {missing[0]}, which is being downloaded" if missing else ""

    def failure(self, name: str, placement: Placement | None) -> str:
        """Why this machine cannot have what the unit needs, as a predicate; '' if that is not so, or not known."""
        if not self._failures or placement is None:
            return ""
        for each in requirements_of(placement.content, name).downloads:
            failure = self._failures.get(each)
            if failure is not None and name in failure.units and failure.until_s > self._now():
                return failure.why
        return ""

    def _is_there(self, download: Download) -> bool:
        wanted = self._wanted.get(download)
        return wanted is not None and wanted.is_there is True

    def _want(self, download: Download, unit: str) -> None:
        wanted = self._wanted.setdefault(download, _Wanted({}))
        wanted.units[unit] = None
        failure = self._failures.get(download)
        if failure is not None and failure.until_s > self._now():
            if unit not in failure.units:
                failure.units[unit] = None
                self._mark(unit)
        elif wanted.task is None and not wanted.is_there:
            wanted.has_looked = asyncio.Event()
            wanted.task = asyncio.create_task(self._get(download, wanted, wanted.has_looked))

    def _release(self, name: str) -> None:
        for each in self._units.pop(name):
            wanted = self._wanted[each]
            wanted.units.pop(name, None)
            if not wanted.units:
                del self._wanted[each]
                if wanted.task is not None:
                    wanted.task.cancel()

    async def _get(self, download: Download, wanted: _Wanted, has_looked: asyncio.Event) -> None:
        try:
            wanted.is_there = await self._fetcher.find(download)
            has_looked.set()
            if not wanted.is_there:
                async with self._turn:
                    log.info("downloading %s", download, extra={"units": ", ".join(wanted.units)})
                    await self._fetcher.fetch(download)
                wanted.is_there = True
                log.info("downloaded %s", download)
                self._tidy_later()
            self._failures.pop(download, None)
        except FetchFailed as error:
            self._note_failure(download, str(error), wanted.units)
        except asyncio.CancelledError:
            if not self._is_closing:
                await self._fetcher.cancel(download)
            raise
        finally:
            wanted.task = wanted.has_looked = None
            has_looked.set()
        for name in wanted.units:
            self._mark(name)

    def _note_failure(self, download: Download, why: str, units: Mapping[str, None]) -> None:
        before, now_s = self._failures.get(download), self._now()
        pause_s = FIRST_PAUSE_S
        if before is not None and now_s < before.until_s + FORGOTTEN_S:
            pause_s = min(2 * before.pause_s, LONGEST_PAUSE_S)
        log.warning("this machine %s", why, extra={"units": ", ".join(units), "pause_s": pause_s})
        failure = _Failure(why, pause_s, now_s + pause_s, dict.fromkeys(units))
        self._failures = {old: each for old, each in self._failures.items() if now_s < each.until_s + FORGOTTEN_S}
        self._failures[download] = failure
        asyncio.get_running_loop().call_at(failure.until_s, self._come_due, download, failure)

    def _come_due(self, download: Download, failure: _Failure) -> None:
        """It may be tried again: by those that wait for it here, and, once the machine takes them again, by those that
        have no other machine."""
        if self._failures.get(download) is failure and not self._is_closing:
            for name in failure.units:
                self._mark(name)

    def _tidy_later(self) -> None:
        """Look in an hour whether something can be deleted, if there is anything."""
        if self._tidying is None and self._fetcher.keeps_any and not self._is_closing:
            self._tidying = asyncio.get_running_loop().call_later(TIDY_S, self._begin_to_tidy)

    def _begin_to_tidy(self) -> None:
        self._tidying = None
        self._tidier = asyncio.create_task(self._tidy())

    async def _tidy(self) -> None:
        placements = self._find_placements()
        if placements is not None:
            active = ((name, each) for name, each in placements.items() if each.prepares or not each.is_withdrawn)
            needed = {each for name, placement in active for each in requirements_of(placement.content, name).downloads}
            await self._fetcher.tidy({*needed, *self._wanted})
        self._tidy_later()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
