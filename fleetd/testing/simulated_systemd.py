"""A simulated systemd, in memory, with faults on demand.

It passes the same contract as a real one (tests/contract/test_systemd*.py). Time is the event loop's and nothing is
random, so the same calls have the same effects in the same order.

One object is one machine. It outlives the fleetd connected to it: close() and connect() are a restart of fleetd.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from fleetd.model.confinement import Privileges
from fleetd.model.content import DropIn, merge_dropins
from fleetd.model.names import is_loadable, is_systemd_name, parse_name
from fleetd.systemd.failure_text import Ending, render_failure
from fleetd.systemd.files import INVALID_NAME, units_of_link
from fleetd.systemd.protocol import (
    NO_DROPINS,
    REBOOT,
    DropInTaken,
    Inhibited,
    IsolatedUnit,
    Isolation,
    ManagerUnavailable,
    NameTaken,
    Run,
    ServiceManagerError,
    UnitDetails,
    UnitStatus,
)
from fleetd.testing.scripted_program import parse_privileges
from fleetd.testing.simulated_lease import SimulatedLease
from fleetd.testing.simulated_units import Behaviour, SimulatedUnits

DIRECTORY = "/run/fleet/units"
SYSTEM_UNITS = {  # the machine's own units → the file each is from
    "-.mount": "",
    "system-getty.slice": "",
    "getty@.service": "/lib/systemd/system/getty@.service",
    "multi-user.target": "/lib/systemd/system/multi-user.target",
    "ssh.service": "/lib/systemd/system/ssh.service",
}
_LOG_LINES = 10


class Call(msgspec.Struct, frozen=True):
    """One request to systemd, whether or not it could be reached; `at_s` is the loop's time."""

    at_s: float
    verb: str
    names: tuple[str, ...] = ()


class SimulatedSystemd:
    """A ServiceManager (systemd/protocol.py) with faults on demand. `calls` records all requests; each takes
    `call_s`."""

    def __init__(self, *, system_units: Mapping[str, str] = SYSTEM_UNITS) -> None:
        self.calls: list[Call] = []
        self.call_s = 0.0
        self.stopping = False
        self.on_reboot: Callable[[], None] = lambda: None  # called when fleetd has the machine rebooted
        self._inhibitors: dict[str, str] = {}  # who holds a lock against shutdowns → why
        self._system_units = dict(system_units)
        self._own_dropins: dict[tuple[str, str], str] = {}  # (unit, file name) → path
        self._units = SimulatedUnits(
            read_text=self._read_text,
            linked_to=self._linked_to,
            resolve=self._resolve,
            on_change=self._note,
            on_job_end=self._note_job_end,
        )
        self._lease = SimulatedLease(self._units)
        self._bus_is_up = True
        self._session = False
        self._boot()

    def _boot(self) -> None:
        self._texts: dict[str, str] = {}
        self._dropins: dict[str, tuple[DropIn, ...]] = {}
        self._links: dict[str, str] = {}  # link below systemd's runtime directory → unit
        self._relinked: dict[str, None] = {}
        self._foreign_jobs: dict[str, str] = {}
        self._lease.reset()
        self._begin_session()

    def _begin_session(self) -> None:
        self._changed: dict[str, None] = {}
        self._has_changed = asyncio.Event()
        self._asked: dict[str, int] = {}
        self._ended: dict[str, tuple[int, str]] = {}

    # For tests and the simulator.

    def behave(self, name: str, behaviour: Behaviour) -> None:
        """Set how this unit starts and stops from now on."""
        self._units.behaviours[name] = behaviour

    def own(self, name: str, path: str) -> None:
        """Give the machine a unit of its own, from this file ('': a transient one, as systemd-run makes it)."""
        self._system_units[name] = path

    def own_dropin(self, name: str, path: str) -> None:
        """Give the machine a drop-in of its own for this unit, in this file."""
        self._own_dropins[name, path.rpartition("/")[2]] = path

    def disown(self, name: str) -> None:
        """Remove the machine's own unit of this name, and its own drop-ins of it."""
        self._system_units.pop(name, None)
        self._own_dropins = {key: path for key, path in self._own_dropins.items() if key[0] != name}
        self._units.reload()

    def crash(self, name: str) -> None:
        """Kill the main process of a running unit."""
        self._units.crash(name)

    def trigger(self, name: str) -> None:
        """Start a unit as something else on the machine does: its socket, its timer, an operator."""
        if name in self._texts:
            self._units.queue_start(name)

    def cancel_job(self, name: str) -> None:
        """Replace the job that is queued for this unit by another client's, which cancels it."""
        self._units.cancel_job(name)

    def pid(self, name: str) -> int:
        """Return the unit's main PID, 0 if it has none. It changes with each start."""
        return self._units.processes().get(self._resolve(name), 0)

    def processes(self) -> Mapping[str, int]:
        """Return unit → main PID of all units that have one, by name."""
        return self._units.processes()

    def set_path(self, path: str, *, exists: bool) -> None:
        """Create or remove a path that conditions and assertions check. At first only `/` exists."""
        self._units.paths.pop(path, None)
        self._units.paths |= {path: None} if exists else {}

    def lose_bus(self, for_s: float) -> None:
        """Lose the bus for so many seconds. Units run on."""
        self._bus_is_up = False
        asyncio.get_running_loop().call_later(for_s, self.find_bus)

    def reexecute(self) -> None:
        """Re-execute systemd: jobs and units stay, clients have to reconnect."""
        self.lose_bus(for_s=0.1)

    def reboot(self) -> None:
        """Cut the power and boot again: all processes, and all of /run, are gone. The connected fleetd is dead."""
        self._units.forget_all()
        self._session, self._bus_is_up, self.stopping = False, True, False
        self._boot()

    def inhibit(self, who: str, why: str) -> None:
        """Have a program take a lock that blocks shutdowns; without a reason, release it."""
        self._inhibitors.pop(who, None)
        self._inhibitors |= {who: why} if why else {}

    def set_pending_job(self, name: str, kind: str) -> None:
        """Queue a job of this type for a unit that is not fleet's, such as fleet.service ('': none)."""
        self._foreign_jobs[name] = kind

    def find_bus(self) -> None:
        """Bring the bus back."""
        self._bus_is_up = True
        if self._session:
            self._note_all()

    # ServiceManager: the connection.

    async def connect(self) -> None:
        await self._take_time("connect", (), connected=False)
        if not self._session:
            self._begin_session()
            self._session = True
            self._note_all()

    async def close(self) -> None:
        self._session = False

    async def _take_time(self, verb: str, names: Collection[str], *, connected: bool = True) -> None:
        """Record a call and let its time pass. Raises ManagerUnavailable if no answer would come."""
        self.calls.append(Call(asyncio.get_running_loop().time(), verb, tuple(names)))
        await asyncio.sleep(self.call_s)
        if not self._bus_is_up or (connected and not self._session):
            raise ManagerUnavailable(" ".join((verb, *list(names)[:1])) + ": not connected to the bus")

    # ServiceManager: unit files.

    def read_files(self) -> Mapping[str, str]:
        return {name: self._texts[name] for name in sorted(self._texts)}

    def shadows(self, name: str) -> str:
        if name in self._system_units and name.endswith(".mount"):
            return f"the mount of {name}"
        return self._system_units.get(name) or self._system_units.get(parse_name(name).template, "")

    def read_dropins(self) -> Mapping[str, tuple[DropIn, ...]]:
        return {name: self._dropins[name] for name in sorted(self._dropins)}

    def shadowed_dropin(self, name: str, dropin: str) -> str:
        return self._own_dropins.get((name, dropin), "")

    async def write(
        self, files: Mapping[str, str], dropins: Mapping[str, Sequence[DropIn]] = NO_DROPINS
    ) -> Mapping[str, Exception]:
        await self._take_time("write", files)
        refused: dict[str, Exception] = {}
        for name, text in files.items():
            wanted = tuple(dropins.get(name, ()))
            if refusal := self._find_refusal(name, wanted):
                refused[name] = refusal
                continue
            self._texts[name] = text
            self._dropins.pop(name, None)
            self._dropins |= {name: wanted} if wanted else {}
            if former := self._links.pop(name, ""):  # a unit's own name takes precedence over an alias
                self._relinked |= dict.fromkeys((name, former))
        return refused

    def _find_refusal(self, name: str, dropins: Sequence[DropIn]) -> ServiceManagerError | None:
        if not is_systemd_name(name):
            return ServiceManagerError(f"write {name}: {INVALID_NAME}")
        if name in self._system_units and name not in self._texts:
            return NameTaken(name, self._system_units[name])
        taken = (self.shadowed_dropin(name, dropin.name) for dropin in dropins)
        return next((DropInTaken(name, path) for path in taken if path), None)

    async def remove(self, names: Collection[str]) -> Mapping[str, Exception]:
        await self._take_time("remove", names)
        for name in names:
            self._units.reset_failed(name)
            self._texts.pop(name, None)
            self._dropins.pop(name, None)
            for known in (self._asked, self._ended, self._changed):
                known.pop(name, None)
        return {}

    async def link(self, make: Mapping[str, str], drop: Mapping[str, str]) -> Mapping[str, Exception]:
        await self._take_time("link", (*drop, *make))
        failures: dict[str, Exception] = {}
        for link, name in drop.items():
            if self._links.get(link) == name:
                del self._links[link]
                self._relinked |= dict.fromkeys(units_of_link(link, name))
        for link, name in make.items():
            if link in self._system_units or link in self._texts:
                failures[link] = ServiceManagerError(f"link {link}: it exists and is not fleet's; remove it")
            elif self._links.get(link) != name:
                self._links[link] = name
                self._relinked |= dict.fromkeys(units_of_link(link, name))
        return failures

    def find_links(self) -> Mapping[str, str]:
        return dict(self._links)

    async def reload_needed(self, names: Collection[str]) -> bool:
        await self._take_time("reload-needed", names)
        if any(self._is_in_memory(name) for name in self._relinked):
            return True
        in_memory = ((name, self._units.get(name)) for name in names)
        return any(unit is not None and unit.text != self._effective_text(name) for name, unit in in_memory)

    async def reload(self) -> None:
        await self._take_time("reload", ())
        self._relinked.clear()
        self._units.reload()
        self._note_all()

    def _read_text(self, name: str) -> str | None:
        template = parse_name(name).template
        if name in self._texts or template in self._texts:
            return self._effective_text(name if name in self._texts else template, name)
        known = name in self._system_units or template in self._system_units
        return "[Service]\nExecStart=/usr/sbin/daemon\n" if known else None

    def _effective_text(self, file: str, name: str = "") -> str | None:
        """Return the file with the drop-ins of the unit `name` and its template ('': the file's own) after it."""
        name = name or file
        dropins = merge_dropins(self._dropins.get(parse_name(name).template, ()), self._dropins.get(name, ()))
        text = self._texts.get(file)
        return text if text is None else "\n".join((text, *(dropin.text for dropin in dropins)))

    def _linked_to(self, name: str) -> tuple[str, ...]:
        """Return the units that links make dependencies of this one, or of one of its aliases."""
        names = (name, parse_name(name).template, *(link for link, unit in self._links.items() if unit == name))
        folders = ((units_of_link(link, unit)[0], unit) for link, unit in self._links.items() if "/" in link)
        return tuple(unit for owner, unit in folders if owner in names)

    def _resolve(self, name: str) -> str:
        """Return the unit that has this name or alias."""
        return self._links.get(name, name)

    def _is_in_memory(self, name: str) -> bool:
        if parse_name(name).is_template:
            return any(parse_name(known).template == name for known in self._units.names)
        return name in self._system_units or self._units.get(name) is not None

    # ServiceManager: the lease.

    async def hold_lease(self, units: Sequence[IsolatedUnit], until_s: float) -> None:
        await self._take_time("hold-lease", [unit.name for unit in units])
        self._lease.hold(units, until_s)

    async def drop_lease(self) -> None:
        await self._take_time("drop-lease", ())
        self._lease.drop()

    def isolation(self) -> Isolation:
        return self._lease.state

    async def end_isolation(self, units: Sequence[IsolatedUnit], until_s: float) -> None:
        await self._take_time("end-isolation", [unit.name for unit in units])
        self._lease.end(units, until_s)

    def permit(self, names: Collection[str]) -> None:
        self._lease.permit(names)

    # ServiceManager: units and jobs.

    async def observe(self, names: Collection[str]) -> Mapping[str, UnitStatus]:
        await self._take_time("observe", names)
        return {name: self._observe_one(name) for name in names}

    def _observe_one(self, name: str) -> UnitStatus:
        unit = self._units.load(name)
        if unit is None:
            return UnitStatus(name)
        return UnitStatus(name, unit.program.load, unit.active, unit.sub, unit.job is not None)

    async def details(self, name: str) -> UnitDetails:
        await self._take_time("details", (name,))
        unit = self._units.load(name)
        if unit is None:
            return UnitDetails()
        program = unit.program
        return UnitDetails(
            self._system_units.get(name, f"{DIRECTORY}/{name}"),
            unit.invocation,
            "" if program.kind in ("target", "slice", "device") else unit.result,
            program.oneshot and not program.remains,
        )

    async def last_run(self, name: str) -> Run:
        await self._take_time("last-run", (name,))
        unit = self._units.load(name)
        return Run(unit.invocation, unit.active_since_s, unit.restarts) if unit else Run()

    async def privileges(self, name: str) -> Privileges:
        await self._take_time("privileges", (name,))
        unit = self._units.load(name)
        return parse_privileges(name, unit.text if unit else "")

    async def explain(self, name: str) -> str:
        await self._take_time("explain", (name,))
        if not is_loadable(name):
            return INVALID_NAME
        unit = self._units.load(name)
        if unit is None or unit.program.load != "loaded":
            ending = Ending(load_error=self._units.load_error(name, unit))
        else:
            ending = Ending(
                result=unit.result,
                exit_code=unit.exit_code,
                exit_status=unit.exit_status,
                job_result=self.job_result(name),
            )
        return render_failure(ending, self._units.log(name)[-_LOG_LINES:])

    async def machine_is_stopping(self) -> bool:
        await self._take_time("machine-is-stopping", ())
        return self.stopping

    async def reboot_machine(self) -> None:
        await self._take_time("reboot-machine", ())
        for who, why in self._inhibitors.items():
            raise Inhibited(REBOOT, who, why, 1)
        self.stopping = True
        self.on_reboot()

    async def pending_job(self, name: str) -> str:
        await self._take_time("pending-job", (name,))
        unit = self._units.get(name)
        return unit.job.kind if unit and unit.job else self._foreign_jobs.get(name, "")

    async def start(self, name: str) -> None:
        self._asked.pop(name, None)
        await self._take_time("start", (name,))
        self._asked[name] = self._units.queue_start(name)

    async def restart(self, name: str) -> None:
        self._asked.pop(name, None)
        await self._take_time("restart", (name,))
        self._asked[name] = self._units.queue_restart(name)

    async def reload_unit(self, name: str) -> None:
        self._asked.pop(name, None)
        await self._take_time("reload-unit", (name,))
        if number := self._units.queue_reload(name):
            self._asked[name] = number

    async def stop(self, name: str) -> None:
        self._asked.pop(name, None)
        await self._take_time("stop", (name,))
        unit = self._units.load(name)
        if unit is not None and unit.program.load == "loaded":
            self._asked[name] = self._units.queue_stop(unit)

    def job_result(self, name: str) -> str:
        number, result = self._ended.get(name, (-1, ""))
        return result if number >= self._asked.get(name, math.inf) else ""

    async def wait_for_changes(self) -> Sequence[str]:
        while not (self._changed and self._bus_is_up):
            self._has_changed.clear()
            await self._has_changed.wait()
        names = tuple(self._changed)
        self._changed.clear()
        return names

    def _note(self, name: str) -> None:
        # Signals are lost together with the bus; once it is back, every name is reported.
        if name in self._texts and self._session and self._bus_is_up:
            self._changed[name] = None
            self._has_changed.set()

    def _note_all(self) -> None:
        for name in sorted(self._texts):
            self._note(name)

    def _note_job_end(self, name: str, number: int, result: str) -> None:
        if self._bus_is_up:
            self._ended[name] = (number, result)
