"""The units and jobs in a simulated systemd's memory: how they are loaded, start, end, and are forgotten."""

import asyncio
import math
from collections.abc import Callable, Mapping

import msgspec

from fleetd.model.job_result import ASSERT, CANCELED, DEPENDENCY, REFUSED, SKIPPED
from fleetd.model.names import is_loadable
from fleetd.model.unit import AT_REST
from fleetd.systemd.protocol import JobRefused
from fleetd.testing.scripted_program import Program, parse_program

START_LIMIT_INTERVAL_S = 10.0  # systemd's default
_SIGKILL = 9
_NO_COMMAND = "Service has no ExecStart=, ExecStop=, or SuccessAction=. Refusing."


class Behaviour(msgspec.Struct, frozen=True):
    """What one unit does beyond what its file says.

    `start_s`, `stop_s`: how long it takes to start and to stop (infinite: it hangs). `refusal`: systemd's message when
    it refuses to start it. `fails`: the result with which each start fails ('exit-code', 'timeout', 'resources').
    """

    start_s: float = 0.0
    stop_s: float = 0.0
    refusal: str = ""
    fails: str = ""


class Job(msgspec.Struct):
    number: int
    kind: str


class SimulatedUnit(msgspec.Struct):
    """A unit in systemd's memory: what it was loaded from, and its state."""

    name: str
    text: str
    program: Program
    wants: tuple[str, ...]
    active: str = "inactive"
    sub: str = "dead"
    result: str = "success"
    exit_code: int = 0
    exit_status: int = 0
    pid: int = 0
    invocation: str = ""
    job: Job | None = None
    timer: asyncio.TimerHandle | None = None
    active_since_s: float = 0.0
    restarts: int = 0
    is_restarting: bool = False  # the next start is one of systemd's own
    started_s: list[float] = []


class SimulatedUnits:
    """All units of one machine since its boot.

    `read_text` returns a unit's file, or None; `linked_to` the units that links make its dependencies; `resolve` the
    unit that has a name. `on_change` is called with a unit's name when its state or job changes, `on_job_end` with the
    job's number and result as well.
    """

    def __init__(
        self,
        *,
        read_text: Callable[[str], str | None],
        linked_to: Callable[[str], tuple[str, ...]],
        resolve: Callable[[str], str],
        on_change: Callable[[str], None],
        on_job_end: Callable[[str, int, str], None],
    ) -> None:
        self.behaviours: dict[str, Behaviour] = {}
        self.paths: dict[str, None] = {"/": None}  # those that exist for conditions and assertions
        self._read_text = read_text
        self._linked_to = linked_to
        self._resolve = resolve
        self._on_change = on_change
        self._on_job_end = on_job_end
        self._units: dict[str, SimulatedUnit] = {}
        self._logs: dict[str, list[str]] = {}
        self._processes: Mapping[str, int] | None = {}  # None: not known
        self._last_pid = 1000
        self._last_job = 0
        self._last_invocation = 0

    def forget_all(self) -> None:
        """Forget everything, as in a power cut. PIDs and job numbers go on, so that none is used twice."""
        for unit in self._units.values():
            if unit.timer:
                unit.timer.cancel()
        self._units, self._logs, self._processes = {}, {}, None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the units that systemd keeps in memory."""
        return tuple(name for name in self._units if self.get(name))

    def get(self, name: str) -> SimulatedUnit | None:
        """Return the unit if systemd keeps it in memory."""
        name = self._resolve(name)
        unit = self._units.get(name)
        return None if unit is None or self._is_collectable(unit) else unit

    def processes(self) -> Mapping[str, int]:
        """Return unit → main PID of all units that have one, by name: the same mapping until one differs."""
        if self._processes is None:
            self._processes = {name: self._units[name].pid for name in sorted(self._units) if self._units[name].pid}
        return self._processes

    def log(self, name: str) -> list[str]:
        """Return the lines that the unit, and systemd about it, logged, oldest first."""
        return self._logs.get(name, [])

    def reload(self) -> None:
        for unit in self._units.values():
            self._read(unit)

    def reset_failed(self, name: str) -> None:
        unit = self._units.get(name)
        if unit and unit.active == "failed":
            self._set_state(unit, "inactive", "dead")

    def crash(self, name: str) -> None:
        """Kill the unit's main process, if it has one."""
        unit = self._units[name]
        assert unit.pid, f"{name} has no process"
        self._end_process(unit, code=2, status=_SIGKILL)

    def stop(self, name: str) -> None:
        """Stop a unit because it conflicts with one that starts."""
        unit = self._units.get(name)
        if unit is not None:
            self._queue_stop(unit)

    def kill(self, name: str) -> None:
        """Kill all processes of a unit, if it has any."""
        unit = self._units.get(name)
        if unit is not None and unit.pid:
            self._end_process(unit, code=2, status=_SIGKILL)

    def cancel_job(self, name: str) -> None:
        """Have another client's job replace the one queued for this unit; it ends at once."""
        unit = self._units[name]
        self._end_job(unit, CANCELED)

    def load(self, name: str) -> SimulatedUnit | None:
        """Return the unit in memory, loading it from its file if it is not there (or could be unloaded)."""
        name = self._resolve(name)
        unit = self._units.get(name)
        if unit is not None and self._is_collectable(unit):
            del self._units[name]
            self._processes = None
            unit = None
        if unit is None and is_loadable(name):
            text = self._read_text(name)
            if text is not None:
                unit = self._units[name] = SimulatedUnit(name, text, parse_program(name, text), ())
                self._read(unit)
        return unit

    def _read(self, unit: SimulatedUnit) -> None:
        text = self._read_text(unit.name)
        if text is None:
            return  # its file is gone: systemd keeps what it has loaded
        unit.text, unit.program = text, self._with_resolved_names(parse_program(unit.name, text))
        if unit.program.load != "loaded":
            complaint = f"{unit.name}: {_NO_COMMAND}"
            if complaint not in self.log(unit.name)[-1:]:
                self._say(unit, complaint)
        unit.wants = tuple(dict.fromkeys((*unit.program.wants, *self._linked_to(unit.name))))

    def _with_resolved_names(self, program: Program) -> Program:
        """Return the program with each alias in it replaced by the unit that has it."""
        requires, wants, after = (
            tuple(map(self._resolve, names)) for names in (program.requires, program.wants, program.after)
        )
        return msgspec.structs.replace(program, requires=requires, wants=wants, after=after)

    def _is_collectable(self, unit: SimulatedUnit) -> bool:
        """True if systemd unloads this unit: it is at rest, and nothing refers to it."""
        if unit.active != "inactive" or unit.job:
            return False
        others = (other for other in self._units.values() if other.active != "inactive" or other.job)
        return not any(unit.name in (*other.program.requires, *other.wants) for other in others)

    def load_error(self, name: str, unit: SimulatedUnit | None) -> str:
        if unit is None:
            return f"Unit {name} not found."
        return f"Unit {name} has a bad unit file setting." if unit.program.load != "loaded" else ""

    # Jobs.

    def queue_start(self, name: str) -> int:
        """Queue start jobs for a unit and what it requires. Returns its own job's number. Raises if systemd would
        refuse."""
        jobs = [(unit, self._replace_job(unit, "start")) for unit in self._find_needed("start", name)]
        for unit, _ in jobs:
            self._run_start(unit)
        return jobs[-1][1].number

    def queue_restart(self, name: str) -> int:
        """Queue restart jobs for a running unit and the running units that require it, and start jobs for what it
        requires. Returns its own job's number. Raises if systemd would refuse."""
        *needed, unit = self._find_needed("restart", name)
        if unit.active in AT_REST:
            return self.queue_start(name)
        _check_manual(unit.program.manual_stop, "restart", name)
        stopped = [*self._find_dependents(unit), unit]
        for other in needed:
            self._replace_job(other, "start")
        number = [self._replace_job(other, "restart") for other in stopped][-1].number
        for other in needed:
            self._run_start(other)
        for other in stopped:
            self._run_stop(other)
        return number

    def queue_reload(self, name: str) -> int:
        """Reload a unit that can be reloaded. Returns its job's number, 0 if it cannot be."""
        unit = self.load(name)
        if unit is None or not unit.program.reload:
            return 0
        number = self._replace_job(unit, "reload").number
        is_running = unit.active == "active"
        if is_running:
            self._say(unit, f"Reloading {name}.")
        self._end_job(unit, "invalid" if not is_running else "failed" if "false" in unit.program.reload else "done")
        return number

    def _find_dependents(self, unit: SimulatedUnit) -> list[SimulatedUnit]:
        """Return the running units that are stopped and restarted with this one, dependents first."""
        found = {unit.name: unit}
        left = [unit]
        while left:
            needed = left.pop(0)
            for other in self._units.values():
                needs = needed.name in (*other.program.requires, *other.program.part_of)
                if needs and other.name not in found and other.active not in AT_REST:
                    found[other.name] = other
                    left.append(other)
        return list(found.values())[:0:-1]

    def _find_needed(self, verb: str, name: str) -> list[SimulatedUnit]:
        """Return what a job for this unit pulls in, in order, the unit last. Raises if systemd would refuse."""
        needed: dict[str, SimulatedUnit] = {}
        self._gather(name, f"{verb} {name}", {}, needed)
        _check_manual(needed[name].program.manual_start, verb, name)
        return list(needed.values())

    def _gather(self, name: str, request: str, seen: dict[str, None], needed: dict[str, SimulatedUnit]) -> None:
        """Add a unit, after all that it pulls in."""
        seen[name] = None
        unit = self.load(name)
        error = self.load_error(name, unit) or self._behaviour(name).refusal
        if unit is None or error:
            raise JobRefused(f"{request}: {error}")
        for other in (*unit.program.requires, *unit.wants):
            wanted_only = other not in unit.program.requires
            if other in seen or (wanted_only and self.load_error(other, self.load(other))):
                continue
            self._gather(other, request, seen, needed)
        needed[name] = unit

    def queue_stop(self, unit: SimulatedUnit) -> int:
        """Queue stop jobs for a unit and what requires it. Returns its own job's number. Raises if systemd would
        refuse."""
        _check_manual(unit.program.manual_stop, "stop", unit.name)
        return self._queue_stop(unit)

    def _queue_stop(self, unit: SimulatedUnit) -> int:
        dependents = self._find_dependents(unit)
        number = [self._replace_job(each, "stop") for each in (*dependents, unit)][-1].number
        for each in (*dependents, unit):
            self._run_stop(each)
        return number

    def _replace_job(self, unit: SimulatedUnit, kind: str) -> Job:
        if unit.job and unit.job.kind == kind:
            return unit.job
        if unit.job:
            self._end_job(unit, CANCELED)
        self._last_job += 1
        unit.job = Job(self._last_job, kind)
        self._on_change(unit.name)
        return unit.job

    def _end_job(self, unit: SimulatedUnit, result: str) -> None:
        job, unit.job = unit.job, None
        if job is None:
            return
        self._on_job_end(unit.name, job.number, result)
        self._on_change(unit.name)
        if job.kind == "start":
            self._run_waiting(unit, "done" if result == SKIPPED else result)

    def _run_waiting(self, ended: SimulatedUnit, result: str) -> None:
        """Continue the start jobs that were ordered after this one, or required it."""
        for unit in list(self._units.values()):
            if not unit.job or unit.job.kind == "stop":
                continue
            if result != "done" and ended.name in unit.program.requires:
                self._end_job(unit, DEPENDENCY)
            elif ended.name in unit.program.after and unit.job.kind == "start":
                self._run_start(unit)

    def _run_start(self, unit: SimulatedUnit) -> None:
        if unit.job is None or unit.active in ("activating", "deactivating"):
            return  # it has begun, or will once the stop has ended
        if unit.active == "active":
            self._end_job(unit, "done")
            return
        before = (self._units.get(name) for name in unit.program.after)
        if any(other and other.job and other.job.kind != "stop" for other in before):
            return
        if hindrance := self._find_hindrance(unit):
            self._end_job(unit, hindrance)
            return
        behaviour = self._behaviour(unit.name)
        unit.restarts = unit.restarts + 1 if unit.is_restarting else 0
        unit.is_restarting = False
        unit.started_s = [at_s for at_s in unit.started_s if at_s > _now_s() - START_LIMIT_INTERVAL_S] + [_now_s()]
        self._last_invocation += 1
        unit.invocation = f"{self._last_invocation:032x}"
        unit.result, unit.exit_code, unit.exit_status = "success", 0, 0
        if not unit.program.exec_condition:
            self._set_state(unit, "activating", "condition")
            self._say(unit, f"{unit.name}: Skipped due to 'exec-condition'.")
            self._after(unit, 0.0, lambda: self._rest(unit, job_result=SKIPPED))
            return
        if unit.program.kind == "service":
            self._last_pid += 1
            unit.pid = self._last_pid
            self._processes = None
        if behaviour.fails or behaviour.start_s > 0 or unit.program.oneshot:
            self._set_state(unit, "activating", "start")
            self._after(unit, behaviour.start_s, lambda: self._finish_start(unit, behaviour))
        else:
            self._finish_start(unit, behaviour)

    def _find_hindrance(self, unit: SimulatedUnit) -> str:
        """Return the job's result if something keeps the unit from starting, or ''."""
        program, name = unit.program, unit.name
        if path := self._find_unmet(program.conditions):
            self._say(unit, f"{name} was skipped because of an unmet condition check (ConditionPathExists={path}).")
            return SKIPPED
        if self._find_unmet(program.asserts):
            self._say(unit, f"{name}: Starting requested but asserts failed.", f"Assertion failed for {name}.")
            return ASSERT
        triggered = self.load(program.triggers) if program.triggers else unit
        if triggered is None or triggered.program.load != "loaded":
            self._say(unit, f"{name}: Refusing to start, unit {program.triggers} to trigger not loaded.")
            return REFUSED
        if program.kind == "socket" and triggered.active not in AT_REST:
            self._say(unit, f"{name}: Socket service {triggered.name} already active, refusing.")
            return REFUSED
        return ""

    def _find_unmet(self, paths: tuple[str, ...]) -> str:
        """Return the first of these paths that does not exist, or, with a `!`, that does; or ''."""
        return next((path for path in paths if (path.lstrip("!") in self.paths) == path.startswith("!")), "")

    def _finish_start(self, unit: SimulatedUnit, behaviour: Behaviour) -> None:
        if behaviour.fails:
            self._die(unit, behaviour.fails)
            return
        self._say(unit, *unit.program.says)
        if not unit.program.oneshot:
            self._set_state(unit, "active", unit.program.running)
            self._say(unit, f"Started {unit.name}.")
            self._end_job(unit, "done")
        self._after(
            unit, unit.program.lasts_s, lambda: self._end_process(unit, code=1, status=unit.program.exit_status)
        )

    def _end_process(self, unit: SimulatedUnit, *, code: int, status: int) -> None:
        """The main process has ended: by itself (code 1), or by a signal (code 2)."""
        unit.exit_code, unit.exit_status = code, status
        if code == 2 or status != 0:
            word = "exited" if code == 1 else "killed"
            self._say(unit, f"{unit.name}: Main process exited, code={word}, status={status}")
            self._die(unit, "exit-code" if code == 1 else "signal")
        elif unit.program.oneshot and unit.program.remains:
            unit.pid = 0
            self._processes = None
            self._set_state(unit, "active", "exited")
            self._end_job(unit, "done")
        else:
            self._rest(unit)

    def _die(self, unit: SimulatedUnit, result: str) -> None:
        self._say(unit, f"{unit.name}: Failed with result '{result}'.")
        unit.result = result
        stopped = unit.job is not None and unit.job.kind == "stop"
        self._rest(unit, "failed", "failed", job_result="done" if stopped else "failed")

    def _run_stop(self, unit: SimulatedUnit) -> None:
        if unit.active in AT_REST:
            self._end_job(unit, "done")
            return
        if unit.active == "deactivating":
            return
        stop_s = max(unit.program.stop_s, self._behaviour(unit.name).stop_s)
        limit_s = unit.program.stop_timeout_s
        self._set_state(unit, "deactivating", "stop-sigterm")
        self._after(
            unit, min(stop_s, limit_s), lambda: self._die(unit, "timeout") if stop_s > limit_s else self._rest(unit)
        )

    def _rest(self, unit: SimulatedUnit, active: str = "inactive", sub: str = "dead", job_result: str = "done") -> None:
        """The unit has no process left. Its job ends, or begins if it waited for this."""
        was_stopped = unit.active == "deactivating"
        waited = was_stopped and unit.job is not None and unit.job.kind != "stop"
        unit.pid = 0
        self._processes = None
        if unit.timer:
            unit.timer.cancel()
        self._set_state(unit, active, sub)
        if waited and unit.job:
            unit.job.kind = "start"
            self._run_start(unit)
            return
        self._end_job(unit, job_result)
        for other in list(self._units.values()):
            is_bound = unit.name in other.program.binds_to and other.active not in AT_REST
            if is_bound and not other.job:
                self._queue_stop(other)
        if not was_stopped and job_result != SKIPPED and self._shall_restart(unit):
            self._set_state(unit, "activating", "auto-restart")
            self._after(unit, unit.program.restart_s, lambda: self._restart_by_itself(unit))

    def _shall_restart(self, unit: SimulatedUnit) -> bool:
        """True if systemd starts the unit again by itself, now that it has ended by itself."""
        has_failed = unit.result != "success"
        when = {"always": True, "on-failure": has_failed, "on-success": not has_failed}
        return when.get(unit.program.restart, False)

    def _restart_by_itself(self, unit: SimulatedUnit) -> None:
        limit = unit.program.start_limit
        if limit and len([at_s for at_s in unit.started_s if at_s > _now_s() - START_LIMIT_INTERVAL_S]) >= limit:
            self._say(unit, f"{unit.name}: Start request repeated too quickly.")
            unit.result = "start-limit-hit"
            self._set_state(unit, "failed", "failed")
            return
        unit.active, unit.is_restarting = "inactive", True
        self._replace_job(unit, "start")
        self._run_start(unit)

    def _set_state(self, unit: SimulatedUnit, active: str, sub: str) -> None:
        if active == "active" != unit.active:
            unit.active_since_s = _now_s()
        unit.active, unit.sub = active, sub
        self._on_change(unit.name)

    def _after(self, unit: SimulatedUnit, delay_s: float, then: Callable[[], None]) -> None:
        """Schedule this for the unit, replacing what was scheduled before. Never runs if the delay is infinite."""
        if unit.timer:
            unit.timer.cancel()
        unit.timer = asyncio.get_running_loop().call_later(delay_s, then) if delay_s < math.inf else None

    def _say(self, unit: SimulatedUnit, *lines: str) -> None:
        self._logs.setdefault(unit.name, []).extend(lines)

    def _behaviour(self, name: str) -> Behaviour:
        return self.behaviours.get(name, Behaviour())


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _check_manual(is_allowed: bool, verb: str, name: str) -> None:
    """Raise JobRefused for a job that may be requested by dependency only."""
    if not is_allowed:
        words = "may be requested by dependency only (it is configured to refuse manual start/stop)."
        raise JobRefused(f"{verb} {name}: Operation refused, unit {name} {words}")
