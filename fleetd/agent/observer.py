"""Collects what one machine knows of its units: files, systemd's states, the ledger, failures and refusals."""

import asyncio
import logging
from collections.abc import Callable, Sequence

import msgspec

from fleetd.agent.desired_state import DesiredState
from fleetd.agent.executor import Executor, as_placed, read_contents
from fleetd.agent.ledger import Ledger
from fleetd.agent.links import has_install
from fleetd.agent.unit_retries import UnitRetries
from fleetd.model.admission import dropin_taken, own_unit, refuse_names
from fleetd.model.confinement import judge, refuse
from fleetd.model.content import Content
from fleetd.model.job_result import CANCELED, NEVER_RAN, REFUSED
from fleetd.model.placement import Placement
from fleetd.model.requirements import requirements_of
from fleetd.model.unit import TargetState
from fleetd.model.unitfile import UnitFileError
from fleetd.reconciler.observed import LastRun, Observed, needs_content, needs_last_run
from fleetd.systemd.protocol import ManagerUnavailable, Run, ServiceManager, ServiceManagerError, UnitStatus

log = logging.getLogger(__name__)

NO_SUCH_UNIT = "takes no such unit"


class Observer:
    """Observes units. Records in the ledger, and as a failure, that a job ended before its unit began to start."""

    def __init__(
        self,
        systemd: ServiceManager,
        ledger: Ledger,
        desired: DesiredState,
        executor: Executor,
        retries: UnitRetries,
        find_failure: Callable[[str, Placement], str] = lambda name, placement: "",
    ) -> None:
        """`find_failure` returns why what a placed unit needs cannot be downloaded, as a predicate, or ''."""
        self._systemd = systemd
        self._ledger = ledger
        self._desired = desired
        self._executor = executor
        self._retries = retries
        self._find_failure = find_failure

    async def observe(self, names: Sequence[str]) -> dict[str, Observed]:
        """Observe these units, with all that plan_machine needs. Raises ManagerUnavailable."""
        at_s = asyncio.get_running_loop().time()
        statuses = await self._systemd.observe(names)
        for name in names:
            self._record_failed_job(statuses[name])
        placements = self._desired.placements
        observed = {name: self._combine(name, statuses[name], at_s) for name in names}
        asked = [name for name in names if needs_last_run(placements.get(name), observed[name])]
        answers = (self._ask_last_run(name, placements[name], observed[name]) for name in asked)
        for name, last_run in zip(asked, await asyncio.gather(*answers), strict=True):
            observed[name] = msgspec.structs.replace(observed[name], last_run=last_run)
        replaced = [name for name in names if needs_content(placements.get(name), observed[name])]
        contents, _ = as_placed(read_contents(self._systemd) if replaced else {}, self._executor.limits)
        for name in replaced:
            observed[name] = msgspec.structs.replace(observed[name], content=contents.get(name, Content("")))
        return observed

    async def running(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return those of these units that are fleet's and run now, in order. Raises ManagerUnavailable."""
        statuses = await self._systemd.observe(names)
        seen = {name: self._combine(name, statuses[name]) for name in names}
        return tuple(name for name in names if seen[name].ours and seen[name].runs)

    def _combine(self, name: str, status: UnitStatus, at_s: float = 0.0) -> Observed:
        file_hash = self._executor.hashes.get(name, "")
        placement = self._desired.placements.get(name)
        refusal, obstacle, lacks = "", "", ""
        if placement is not None:
            if not file_hash:
                refusal, obstacle, lacks = self._find_refusal(name, status)
            if not obstacle and not status.runs and (obstacle := self._find_failure(name, placement)):
                # What is left of an earlier placement is fleet's still, and goes before the unit does.
                is_new = not file_hash and self._ledger.get(name) is None
                refusal = f"this machine {obstacle}" if is_new else ""
        forbidden = self._find_forbidden(name) if file_hash else ""
        return Observed(
            hash=file_hash,
            load=status.load,
            active=status.active,
            sub=status.sub,
            job=status.job,
            entry=self._ledger.get(name),
            stop=self._executor.stop_progress(status),
            waiting=self._retries.is_waiting(name),
            job_result=self._systemd.job_result(name),
            refusal=refusal,
            obstacle=obstacle,
            lacks=lacks,
            forbidden=forbidden,
            at_s=at_s,
        )

    def _find_refusal(self, name: str, status: UnitStatus) -> tuple[str, str, str]:
        """Return why this machine takes no unit of this name and content: `refusal`, `obstacle` and `lacks` of
        Observed."""
        if taken := self._executor.taken_error(status):
            return str(taken), taken.obstacle, ""
        content = self._desired.placements[name].content
        if limit := self._find_limit(name, content):
            return f"this machine {limit} (see fleet.conf)", limit, ""
        try:
            options = content.options() if has_install(content) else ()
        except UnitFileError:
            options = ()
        own = self._systemd.shadows(name) if "." in name else ""
        refusal = refuse_names(name, options, lambda each: own if each == name else self._systemd.shadows(each))
        if refusal:
            return refusal, own_unit(own) if own else NO_SUCH_UNIT, ""
        for dropin in content.dropins:
            if path := self._systemd.shadowed_dropin(name, dropin.name):
                return dropin_taken(name, path), own_unit(path), ""
        if lacks := self._find_missing_template(name):
            refusal = f"{name} has Accept=yes and starts an instance of {lacks} for each connection; submit {lacks}"
            return refusal, f"lacks {lacks}", lacks
        return "", "", ""

    def _find_forbidden(self, name: str) -> str:
        """Return why a unit that has a file here may not be here as it is placed; '' if it may."""
        placement = self._desired.placements.get(name)
        if placement is None or placement.is_withdrawn:
            return ""
        if name in self._executor.unconfined:
            return "it is not confined yet"
        return self._find_limit(name, placement.content)

    def _find_limit(self, name: str, content: Content) -> str:
        """Return why the machine's fleet.conf does not take this unit, as a predicate; '' if it does."""
        limits = self._executor.limits
        why = refuse(limits, name, content)
        if why or not limits.confine:
            return why
        owners = {other: self._systemd.shadows(other) for other in judge(name, content).starts}
        started = [f"{other} ({path})" for other, path in owners.items() if path]
        return f"confines its units: it starts {', '.join(started)} of the machine's own" if started else ""

    def _find_missing_template(self, name: str) -> str:
        """Return the template that a socket with Accept=yes needs, if neither the cluster nor the machine has it."""
        template = requirements_of(self._desired.placements[name].content, name).template
        placement = self._desired.placements.get(template)
        is_placed = placement is not None and not placement.is_withdrawn
        return "" if not template or is_placed or self._systemd.shadows(template) else template

    def _record_failed_job(self, status: UnitStatus) -> None:
        """Undo the ledger's record of a start or restart that systemd accepted, and whose job ended before it began."""
        name, entry = status.name, self._ledger.get(status.name)
        if entry is None or status.job:
            return
        result = self._systemd.job_result(name)
        if entry.restarting and entry.restarting.invocation is not None:
            if result == CANCELED:
                due = msgspec.structs.replace(entry.restarting, invocation=None)
                self._ledger.put(name, msgspec.structs.replace(entry, restarting=due))
                self._retries.record(name, f"the restart of {name} was canceled by another job")
            return
        if not entry.issued or entry.adopted or entry.generation == 0 or status.runs:
            return
        if entry.target is TargetState.LAUNCHED and result in NEVER_RAN:
            self._ledger.put(name, msgspec.structs.replace(entry, generation=0, issued=False))
            cause = "systemd refused to start it" if result == REFUSED else "a unit that it needs failed"
            self._retries.record(name, f"{name} was not started: {cause} ({result})", result)

    async def _ask_last_run(self, name: str, placement: Placement, seen: Observed) -> LastRun | None:
        is_asked = placement.prove_after_s is not None
        try:
            run = await self._systemd.last_run(name) if is_asked else Run()
            if is_asked and seen.active == "active":  # how it ends is not known yet; a daemon-reload asks about all
                return LastRun(run.invocation, active_since_s=run.active_since_s, restarts=run.restarts)
            details = await self._systemd.details(name)
        except ManagerUnavailable:
            raise
        except ServiceManagerError as error:
            log.warning("cannot find out how the last run of %s ended: %s", name, error)
            return None
        return LastRun(details.invocation, details.result, details.oneshot, run.active_since_s, run.restarts)
