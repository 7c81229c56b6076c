"""Reports the units of one machine: how each goes, why it does not, and whether it is healthy.

A failure is reported once its cause is known, and what has still to wait before it is changed is not judged.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec

from fleetd.agent.announcer import Announcer
from fleetd.agent.desired_state import DesiredState
from fleetd.agent.diagnostics import NO_REASON, Diagnostics
from fleetd.agent.downloads import Downloads
from fleetd.agent.executor import Executor
from fleetd.agent.isolation import IsolationKeeper
from fleetd.agent.ledger import Ledger
from fleetd.agent.proof_timers import ProofTimers
from fleetd.agent.publisher import StatePublisher
from fleetd.agent.unit_retries import UnitRetries
from fleetd.model.job_result import WAITS_FOR_LOCK
from fleetd.model.placement import Placement
from fleetd.model.unit import Proof
from fleetd.reconciler.observed import Observed, is_settled
from fleetd.reconciler.proof import Announced, explain, judge_health
from fleetd.reconciler.reported_state import find_result, needs_explanation, report
from fleetd.systemd.protocol import ServiceManager


class Reporter:
    """Has the state of each unit published, as it was seen and as the other parts of the agent know of it. `mark` has
    the agent look at a unit again."""

    def __init__(
        self,
        systemd: ServiceManager,
        ledger: Ledger,
        desired: DesiredState,
        executor: Executor,
        retries: UnitRetries,
        downloads: Downloads,
        isolation: IsolationKeeper,
        announcer: Announcer,
        publisher: StatePublisher,
        mark: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._desired = desired
        self._executor = executor
        self._retries = retries
        self._downloads = downloads
        self._isolation = isolation
        self._announcer = announcer
        self._publisher = publisher
        self._diagnostics = Diagnostics(systemd, mark)
        self._proof_timers = ProofTimers(mark)
        self._refused: dict[str, None] = {}
        self._held: dict[str, None] = {}  # units whose actions have to wait

    async def close(self) -> None:
        """Look for no cause any more."""
        self._proof_timers.close()
        await self._diagnostics.close()

    @property
    def refused(self) -> Collection[str]:
        """The units that this machine refuses."""
        return self._refused

    def hold(self, observed: Iterable[str], held: Iterable[str]) -> None:
        """The actions for these of the observed units have to wait."""
        for name in observed:
            self._held.pop(name, None)
        self._held |= dict.fromkeys(held)

    def forget_failure(self, name: str) -> None:
        """Something is done with the unit: why it failed before is not of interest any more."""
        self._diagnostics.forget(name)

    def report(self, observed: Mapping[str, Observed]) -> None:
        """Report these units, as they were seen."""
        for name, seen in observed.items():
            self._report_one(name, self._desired.placements.get(name), seen)

    def _report_one(self, name: str, placement: Placement | None, seen: Observed) -> None:
        if is_settled(placement, seen):
            self._retries.forget(name)
        self._announcer.follow(name, placement, seen)
        result = find_result(seen, self._retries.job_result(name))
        if self._isolation.waits(name):
            result = WAITS_FOR_LOCK
        is_explained = needs_explanation(seen, result)
        proof = self._judge(name, placement, seen, result)
        is_unhealthy = seen.active == "failed" or (proof is not None and proof.failed != "")
        self._diagnostics.update(name, has_failed=is_explained or (seen.ours and is_unhealthy))
        if is_explained and self._diagnostics.is_pending(name):
            return  # the refusal only says that a setting is bad; the explanation says which
        state = report(
            placement,
            seen,
            error=self._find_error(name, is_explained),
            result=result,
            note=self._isolation.note(name) or self._downloads.note(name) or self._executor.note(name),
            orphan=name in self._ledger.orphans,
            proof=self._explain_proof(name, proof),
            unannounced=self._announcer.unannounced(name),
            is_prepared=self._downloads.is_ready(name),
        )
        if state is not None and state.refusal:
            self._refused[name] = None
        else:
            self._refused.pop(name, None)
        self._publisher.set(name, state)

    def _judge(self, name: str, placement: Placement | None, seen: Observed, result: str) -> Proof | None:
        """Return whether the unit is healthy, if that is asked, and look again when time alone may change it. What has
        still to wait before it is changed is not judged: its deadline has not begun."""
        error = self._downloads.failure(name, placement) if name in self._held else self._retries.error(name)
        if name in self._held and result != WAITS_FOR_LOCK:
            self._proof_timers.set(name, None)
            if not error:
                return None
            seen = msgspec.structs.replace(seen, waiting=True)
        announced = Announced(self._announcer.settled_s(name), self._announcer.unannounced(name))
        judgement = judge_health(placement, seen, error=error, result=result, announced=announced)
        self._proof_timers.set(name, judgement.due_s)
        return judgement.proof

    def _explain_proof(self, name: str, proof: Proof | None) -> Proof | None:
        """Return the answer with the cause of a failure in full. It waits for that: the leader acts on the first
        answer."""
        if proof is None or not proof.failed or self._retries.error(name) == proof.failed:
            return proof
        if self._diagnostics.is_pending(name):
            return None
        explained = self._diagnostics.text(name)
        return explain(proof, "" if explained == NO_REASON else explained)

    def _find_error(self, name: str, is_explained: bool) -> str:
        """Return why the unit, or an action for it, failed. systemd's explanation of the unit, where there is one, says
        more than the error with which it refused the action."""
        if name in self._held and (why := self._downloads.failure(name, self._desired.placements.get(name))):
            return f"this machine {why}"
        refused, explained = self._retries.error(name), self._diagnostics.text(name)
        if is_explained and explained not in ("", NO_REASON):
            return explained
        return refused or explained
