"""The machine's systemd over D-Bus: the ServiceManager that fleetd uses."""

import asyncio
import contextlib
import math
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from fleetd.config.config import own_paths
from fleetd.model.admission import name_taken
from fleetd.model.confinement import Privileges
from fleetd.model.content import DropIn
from fleetd.model.job_result import REFUSED, SKIPPED
from fleetd.model.names import is_loadable, is_template
from fleetd.systemd import logind
from fleetd.systemd.dbus_connection import (
    MANAGER_PATH,
    MAX_CALLS_IN_FLIGHT,
    SYSTEMD,
    RefusedBySystemd,
    SystemBus,
    object_path,
)
from fleetd.systemd.failure_text import Ending, render_failure
from fleetd.systemd.files import INVALID_NAME, UnitFiles, units_of_link
from fleetd.systemd.isolation import LeaseUnits
from fleetd.systemd.journal import last_lines
from fleetd.systemd.privileges import ask_privileges
from fleetd.systemd.protocol import (
    NO_DROPINS,
    REBOOT,
    DropInTaken,
    IsolatedUnit,
    Isolation,
    JobRefused,
    ManagerUnavailable,
    NameTaken,
    Run,
    ServiceManagerError,
    UnitDetails,
    UnitStatus,
)

RELOAD_TIMEOUT_S = 120.0  # a daemon-reload takes a second at a thousand units, and waits for generators
NAMES_A_CALL = 100
# For each unfinished job requested over the bus, systemd keeps a match rule. The bus refuses the 513th, and then
# systemd leaves the bus for good.
MAX_QUEUED_JOBS = 256
SLOW_JOBS_S = 1.0
JOURNAL_LAG_S = 0.2
PATTERNS_A_CALL = 16  # systemd compares each pattern with each unit; beyond a few, the whole list is cheaper

_AT_REST = ("ActiveState", "ConditionResult", "ConditionTimestampMonotonic")
_NOTHING_TO_DO = (
    ("StopUnit", f"{SYSTEMD}.NoSuchUnit"),
    ("ReloadUnit", f"{SYSTEMD}.JobTypeNotApplicable"),
)
_WITH_RESULT = frozenset(("service", "socket", "timer", "path", "mount", "automount", "swap", "scope"))


class SystemdOverDBus:
    """The machine's systemd (see protocol.ServiceManager), or with `user` the current user's.

    `units_directory` (absolute) holds fleet's unit files; they are linked in systemd's runtime directory. `library` is
    one of LIBRARIES (dbus_connection.py), by default the best one installed.
    """

    def __init__(
        self, units_directory: Path = Path("/run/fleet/units"), *, user: bool = False, library: str | None = None
    ) -> None:
        base, runtime, address = Path("/run"), Path("/run/systemd/system"), None
        if user:
            paths = own_paths(os.environ)
            base, runtime = Path(paths.runtime), Path(paths.runtime, "systemd/user")
            address = os.environ.get("DBUS_SESSION_BUS_ADDRESS") or f"unix:path={paths.bus}"
        self._files = UnitFiles(units_directory, runtime)
        self._user = user
        self._bus = SystemBus(self._start_anew, self._note_signal, library=library, user=user, address=address)
        self._lease = LeaseUnits(self._bus, base, runtime, user=user)
        self._search_path: tuple[str, ...] | None = None
        self._by_path: dict[str, str] = {}  # D-Bus object → name, for units with files here
        self._changed: dict[str, None] = {}
        self._has_changed = asyncio.Event()
        self._asked: dict[str, float] = {}  # name → number of the last job requested; infinite: no answer yet
        self._ended: dict[str, tuple[int, str]] = {}  # name → number and result of the last job that ended
        self._at_rest: dict[str, bool] = {}  # inactive units → whether their conditions were met
        self._queued: dict[int, None] = {}  # unfinished jobs requested over this connection
        self._job_slots = asyncio.Semaphore(MAX_QUEUED_JOBS)
        self._slot_freed_at_s = -math.inf
        self._claiming = asyncio.Lock()
        self._relinked: dict[str, None] = {}  # units whose names or dependencies changed since the last reload

    async def connect(self) -> None:
        await self._bus.connect()

    async def close(self) -> None:
        await self._bus.close()

    async def _start_anew(self) -> None:
        """Start over after each connection: signals may have been missed, so every unit may have changed."""
        for number in list(self._queued):
            self._free_slot(number)
        self._at_rest.clear()
        search_path = await self._bus.get_one(MANAGER_PATH, "Manager.UnitPath", "ask systemd for its directories")
        self._search_path = tuple(search_path)
        self._files.close_to_others()
        self._by_path = {object_path(name): name for name in self._files.names()}
        self._note_all()

    # fleet's unit files.

    def read_files(self) -> Mapping[str, str]:
        return self._files.read()

    def read_dropins(self) -> Mapping[str, tuple[DropIn, ...]]:
        return self._files.read_dropins()

    def shadows(self, name: str) -> str:
        return self._files.foreign_path(name, self._known_search_path(name))

    def shadowed_dropin(self, name: str, dropin: str) -> str:
        return self._files.foreign_dropin(name, dropin, self._known_search_path(name))

    def _known_search_path(self, name: str) -> tuple[str, ...]:
        if self._search_path is None:
            raise ManagerUnavailable(f"look for {name}: not connected to systemd yet")
        return self._search_path

    async def write(
        self, files: Mapping[str, str], dropins: Mapping[str, Sequence[DropIn]] = NO_DROPINS
    ) -> Mapping[str, Exception]:
        refused = await self._find_foreign([name for name in files if object_path(name) not in self._by_path])
        for name, text in files.items():
            if name in refused:
                continue
            wanted = dropins.get(name, ())
            try:
                for dropin in wanted:
                    if path := self.shadowed_dropin(name, dropin.name):
                        raise DropInTaken(name, path)
                if former := self._files.put(name, text):
                    self._relinked |= dict.fromkeys((name, former))
                if self._files.put_dropins(name, wanted):
                    self._relinked[name] = None
            except (ServiceManagerError, OSError) as error:
                refused[name] = error
            else:
                self._by_path[object_path(name)] = name
        self._files.touch()
        return refused

    async def remove(self, names: Collection[str]) -> Mapping[str, Exception]:
        [rows] = await self._bus.call("list failed units", "ListUnitsByPatterns", "asas", ["failed"], [])
        failed = {row[0] for row in rows}
        await asyncio.gather(*(self._reset_failed(name) for name in names if name in failed))
        # Files go last: after a crash, a file that is still there makes the next pass finish the removal.
        failures: dict[str, Exception] = {}
        for name in names:
            try:
                self._forget(name)
            except OSError as error:
                failures[name] = error
        return failures

    async def _find_foreign(self, names: Sequence[str]) -> dict[str, Exception]:
        """Return those of these names, none of which has a file here, that systemd has loaded from elsewhere. `shadows`
        cannot see mounts, slices and transient units, which have no file."""
        foreign: dict[str, Exception] = {}
        seen = await self.observe(names)
        for name in names:
            if seen[name].load == "not-found":
                continue
            try:
                [path] = await self._bus.get(name, "Unit.FragmentPath")
            except RefusedBySystemd as error:
                foreign[name] = error
                continue
            # A removed unit of fleet's stays in memory while others refer to it.
            if not path or not self._files.has_linked(path):
                foreign[name] = NameTaken(name, path)
        return foreign

    async def link(self, make: Mapping[str, str], drop: Mapping[str, str]) -> Mapping[str, Exception]:
        aliases = [link for link in make if "/" not in link]
        failures = await self._find_foreign(aliases)
        for alias in aliases:
            if path := self.shadows(alias):
                failures[alias] = ServiceManagerError(f"link {alias}: {name_taken(alias, path)}")
        for change, links in ((self._files.drop_link, drop), (self._files.make_link, make)):
            for link, name in links.items():
                if link in failures:
                    continue
                try:
                    has_changed = change(link, name)
                except (ServiceManagerError, OSError) as error:
                    failures[link] = error
                    continue
                if has_changed:
                    self._relinked |= dict.fromkeys(units_of_link(link, name))
        self._files.touch()
        return failures

    def find_links(self) -> Mapping[str, str]:
        return self._files.find_links()

    def _forget(self, name: str) -> None:
        self._files.drop(name)
        self._by_path.pop(object_path(name), None)
        for known in (self._asked, self._ended, self._changed, self._at_rest):
            known.pop(name, None)

    async def _reset_failed(self, name: str) -> None:
        with contextlib.suppress(RefusedBySystemd):  # it was unloaded meanwhile
            await self._bus.call(f"reset {name}", "ResetFailedUnit", "s", name)

    # systemd itself.

    async def reload_needed(self, names: Collection[str]) -> bool:
        # A unit that is not in memory needs no reload.
        if any(await asyncio.gather(*map(self._is_in_memory, self._relinked))):
            return True
        rows = await self._find_in_memory(names)
        loaded = {name for name, row in rows.items() if row[2] != "not-found"}
        candidates = [name for name in names if name in loaded]
        for first in range(0, len(candidates), MAX_CALLS_IN_FLIGHT):
            some = candidates[first : first + MAX_CALLS_IN_FLIGHT]
            if any(await asyncio.gather(*(self._is_outdated(name) for name in some))):
                return True
        return False

    async def _is_outdated(self, name: str) -> bool:
        [needed] = await self._bus.get(name, "Unit.NeedDaemonReload")
        links = self._files.dropin_links(name)
        if needed or not links:
            return bool(needed)
        [paths] = await self._bus.get(name, "Unit.DropInPaths")  # NeedDaemonReload overlooks a folder that is new
        return not set(links) <= set(paths)

    async def reload(self) -> None:
        await self._bus.call("daemon-reload", "Reload", timeout_s=RELOAD_TIMEOUT_S)

    async def observe(self, names: Collection[str]) -> Mapping[str, UnitStatus]:
        # A single name that cannot be loaded would make systemd refuse the whole list.
        known = [name for name in names if is_loadable(name)]
        ours = [name for name in known if object_path(name) in self._by_path]
        rows: dict[str, Sequence[Any]] = {}
        for first in range(0, len(ours), NAMES_A_CALL):
            some = ours[first : first + NAMES_A_CALL]
            [found] = await self._bus.call("list units", "ListUnitsByNames", "as", some)
            rows |= zip(some, found, strict=True)
        # Naming a unit without a file would make systemd load it, find nothing, and emit signals about it.
        rows |= await self._find_in_memory([name for name in known if name not in rows])
        return {name: _status(name, rows.get(name)) for name in names}

    async def _is_in_memory(self, name: str) -> bool:
        """True if systemd has a unit of this name or alias, or an instance of this template, in memory."""
        if is_template(name):
            [rows] = await self._bus.call("list units", "ListUnitsByPatterns", "asas", [], [name.replace("@.", "@*.")])
            return bool(rows)
        try:
            await self._bus.call(f"look for {name}", "GetUnit", "s", name)
        except RefusedBySystemd:
            return False
        return True

    async def _find_in_memory(self, names: Collection[str]) -> dict[str, Sequence[Any]]:
        """Return systemd's rows for those of these units that are in its memory, without loading the others."""
        if not names:
            return {}
        patterns = list(names) if len(names) <= PATTERNS_A_CALL else []
        [rows] = await self._bus.call("list units", "ListUnitsByPatterns", "asas", [], patterns)
        wanted = frozenset(names)
        return {row[0]: row for row in rows if row[0] in wanted}

    async def start(self, name: str) -> None:
        await self._queue_job("start", "StartUnit", name)

    async def restart(self, name: str) -> None:
        await self._queue_job("restart", "RestartUnit", name)

    async def reload_unit(self, name: str) -> None:
        await self._queue_job("reload", "ReloadUnit", name)

    async def stop(self, name: str) -> None:
        if is_loadable(name):
            await self._queue_job("stop", "StopUnit", name)

    async def _queue_job(self, verb: str, member: str, name: str) -> None:
        await self._claim_slot()
        self._asked[name] = math.inf
        try:
            [path] = await self._bus.call(f"{verb} {name}", member, "ss", name, "replace")
        except BaseException as error:
            self._asked.pop(name, None)
            self._job_slots.release()
            if isinstance(error, RefusedBySystemd):
                if (member, error.code) in _NOTHING_TO_DO:
                    return
                raise JobRefused(str(error)) from error
            raise
        number = int(path.rpartition("/")[2])
        self._asked[name] = number
        ended, _ = self._ended.get(name, (-1, ""))
        if number in self._queued or number <= ended:
            self._job_slots.release()  # it was queued before, or has ended already
        else:
            self._queued[number] = None

    async def _claim_slot(self) -> None:
        """Wait for a free job slot, in the order of the calls. If no job has ended for SLOW_JOBS_S, reconnect: systemd
        then forgets who requested the jobs, but not the jobs. Other calls in flight fail as when the bus is lost."""
        async with self._claiming:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SLOW_JOBS_S):
                        await self._job_slots.acquire()
                        return
                idle_s = asyncio.get_running_loop().time() - self._slot_freed_at_s
                if self._job_slots.locked() and idle_s >= SLOW_JOBS_S:
                    self._bus.drop()
                    await self._bus.connect()

    def _free_slot(self, number: int) -> None:
        if number in self._queued:
            del self._queued[number]
            self._slot_freed_at_s = asyncio.get_running_loop().time()
            self._job_slots.release()

    def job_result(self, name: str) -> str:
        number, result = self._ended.get(name, (-1, ""))
        return result if number >= self._asked.get(name, math.inf) else ""

    async def wait_for_changes(self) -> Sequence[str]:
        while not self._changed:
            self._has_changed.clear()
            await self._has_changed.wait()
        names = tuple(self._changed)
        self._changed.clear()
        return names

    def _note_signal(self, path: str, member: str, body: Sequence[Any]) -> None:
        match member:
            case "PropertiesChanged":
                if path in self._by_path:
                    self._note_properties(self._by_path[path], body[1])
            case "JobRemoved":
                number, _, name, result = body
                self._free_slot(number)
                if name in self._asked:
                    self._ended[name] = (number, self._interpret(name, result))
                if object_path(name) in self._by_path:
                    self._note(name)
            case "Reloading" if not body[0]:
                self._relinked.clear()
                self._note_all()

    def _note_properties(self, name: str, properties: Mapping[str, Any]) -> None:
        """A unit has changed. systemd sends these properties together, before the end of the job; if nothing refers to
        the unit, it forgets them right after."""
        sent = {key: properties[key].value for key in _AT_REST if key in properties}
        if sent.get("ActiveState") == "inactive":
            was_checked = sent.get("ConditionTimestampMonotonic", 0) > 0
            self._at_rest[name] = bool(sent.get("ConditionResult", True)) or not was_checked
        elif sent:
            self._at_rest.pop(name, None)
        self._note(name)

    def _interpret(self, name: str, result: str) -> str:
        """Return the job's result, with systemd's ambiguous ones told apart (REFUSED, SKIPPED)."""
        if name in self._at_rest:
            if result == "failed":
                return REFUSED
            if result == "done" and not self._at_rest[name]:
                return SKIPPED
        return result

    def _note(self, name: str) -> None:
        self._changed[name] = None
        self._has_changed.set()

    def _note_all(self) -> None:
        for name in self._by_path.values():
            self._note(name)

    # More on one unit.

    async def details(self, name: str) -> UnitDetails:
        if not is_loadable(name):
            return UnitDetails()
        kind = name.rpartition(".")[2]
        load, path, invocation = await self._bus.get(name, "Unit.LoadState", "Unit.FragmentPath", "Unit.InvocationID")
        if load == "not-found" and not path:
            return UnitDetails()
        result, oneshot = "", False
        if kind in _WITH_RESULT:
            [result] = await self._bus.get(name, f"{kind.capitalize()}.Result")
        if kind == "service":
            service_type, remains = await self._bus.get(name, "Service.Type", "Service.RemainAfterExit")
            oneshot = service_type == "oneshot" and not remains
        return UnitDetails(self._files.resolve(path), bytes(invocation).hex(), result, oneshot)

    async def last_run(self, name: str) -> Run:
        if not is_loadable(name):
            return Run()
        counted = ["Service.NRestarts"] if name.endswith(".service") else []
        # The invocation first: one that ends meanwhile is not taken for the one that is active since then.
        asked = ("Unit.InvocationID", "Unit.ActiveEnterTimestampMonotonic", *counted)
        invocation, since_us, *restarts = await self._bus.get(name, *asked)
        return Run(bytes(invocation).hex(), since_us / 1e6, *restarts)

    async def privileges(self, name: str) -> Privileges:
        return await ask_privileges(self._bus, name, self._files.has_linked)

    async def explain(self, name: str) -> str:
        if not is_loadable(name):
            return INVALID_NAME
        [(code, message)] = await self._bus.get(name, "Unit.LoadError")
        ending = Ending(load_error=message if code else "", job_result=self.job_result(name))
        if not code:
            ending = structs.replace(ending, result=(await self.details(name)).result)
        if not code and name.endswith(".service"):
            exit_code, status, text = await self._bus.get(
                name, "Service.ExecMainCode", "Service.ExecMainStatus", "Service.StatusText"
            )
            ending = structs.replace(ending, exit_code=exit_code, exit_status=status, status_text=text)
        log = await last_lines(name, user=self._user)
        # The journal lags a little, and only it says which setting is bad or which condition is not met.
        if not log and (code or ending.job_result):
            await asyncio.sleep(JOURNAL_LAG_S)
            log = await last_lines(name, user=self._user)
        return render_failure(ending, log)

    async def started_us(self) -> int:
        """When this systemd started, in microseconds since the boot; a daemon-reexec does not change it."""
        what = "ask systemd since when it runs"
        return int(await self._bus.get_one(MANAGER_PATH, "Manager.UserspaceTimestampMonotonic", what))

    async def machine_is_stopping(self) -> bool:
        state = await self._bus.get_one(MANAGER_PATH, "Manager.SystemState", "ask systemd for its state")
        return bool(state == "stopping")

    async def pending_job(self, name: str) -> str:
        if not is_loadable(name):
            return ""
        [(number, job)] = await self._bus.get(name, "Unit.Job")
        if number == 0:
            return ""
        try:
            return str(await self._bus.get_one(job, "Job.JobType", f"look at the job of {name}"))
        except RefusedBySystemd:
            return ""  # the job has ended meanwhile

    # The lease.

    async def hold_lease(self, units: Sequence[IsolatedUnit], until_s: float) -> None:
        await self._lease.hold(units, until_s)

    async def drop_lease(self) -> None:
        await self._lease.drop()

    def isolation(self) -> Isolation:
        return self._lease.state()

    async def end_isolation(self, units: Sequence[IsolatedUnit], until_s: float) -> None:
        await self._lease.end(units, until_s)

    def permit(self, names: Collection[str]) -> None:
        self._lease.permit(names)

    async def reboot_machine(self) -> None:
        if self._user:
            raise ServiceManagerError(f"{REBOOT}: the systemd of a user cannot do that (systemd_user=true)")
        await logind.reboot_machine(self._bus)


def _status(name: str, row: Sequence[Any] | None) -> UnitStatus:
    """Return a unit's status from its row in systemd's list (None: it has none)."""
    if row is None:
        return UnitStatus(name)
    load, active, sub = map(sys.intern, row[2:5])  # a few distinct words, kept for each of a thousand units
    return UnitStatus(name, load=load, active=active, sub=sub, job=row[7] != 0)
