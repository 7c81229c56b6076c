"""The queue of reboots as the API and FleetLock clients see it: which machine is where in it, and why. Pure, but for
`read_queue`."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import msgspec

from fleetd.api import schema
from fleetd.config.cluster_settings import reboot_policy
from fleetd.model.cluster_settings import ClusterSetting, ClusterSettings
from fleetd.model.machine import SHORT_ID_LENGTH, Machine, MachineMode
from fleetd.model.reboot import Reboot, RebootFailure, RebootPhase, RebootRequest, in_order
from fleetd.model.reboot_window import next_opening
from fleetd.model.timespan import render_moment
from fleetd.registry.records import CLUSTER_SETTINGS, LEADER, REBOOT_REQUESTS, REBOOTS
from fleetd.registry.registry import Reader
from fleetd.scheduler.reboot_policy import RebootPolicy

MOST_NAMED = 3  # machines or units in a sentence
QUEUED = "queued"
IDLE = "idle"
_NOT_TAKING_PART = {
    None: "is absent: its turn comes when it is back",
    MachineMode.LEAVING: "is leaving: its turn comes when it is back",
    MachineMode.PARKED: "is parked: its turn comes when its fleetd is started again",
}
_ASK_AGAIN = "ask for it again"
_GOES_ON = "the queue goes on once the machine serves, or after `fleetctl reboot --cancel {machine}`"
_REMEDIES = {
    RebootFailure.DEADLINE: "stop what is left there, or ask for it again with a longer --deadline",
    RebootFailure.NOT_BACK: f"look at its console; {_GOES_ON}",
    RebootFailure.NOT_SERVING: f"repair these units, or stop them; {_GOES_ON}",
    RebootFailure.REFUSED: _ASK_AGAIN,
    RebootFailure.RESTORED: _ASK_AGAIN,
    RebootFailure.CANCELLED: _ASK_AGAIN,
}


class RebootQueue(msgspec.Struct, frozen=True, dict=True):
    """The records that the queue is made of, by machine, and what the leader goes by; `now` is a Unix time."""

    machines: Mapping[str, Machine]
    requests: Mapping[str, RebootRequest]
    reboots: Mapping[str, Reboot]
    policy: RebootPolicy
    now: float

    def current(self, machine: str) -> Reboot | None:
        """The reboot of a machine that has or had a slot, unless it was asked for again since it was given up."""
        return current_reboot(self.requests.get(machine), self.reboots.get(machine))

    @cached_property
    def holders(self) -> list[str]:
        """The machines that have a slot, in the order in which they got it."""
        held = {machine: reboot for machine, reboot in self.reboots.items() if reboot.holds_slot}
        return sorted(held, key=lambda machine: (held[machine].began, machine))

    @cached_property
    def waiting(self) -> list[str]:
        """The machines that wait for a slot, in their order."""
        return [machine for machine in in_order(self.requests) if self.current(machine) is None]


def current_reboot(request: RebootRequest | None, reboot: Reboot | None) -> Reboot | None:
    """The reboot, unless it was given up and its machine has been asked for again since."""
    is_former = reboot is not None and request is not None and request.id != reboot.id and not reboot.holds_slot
    return None if is_former else reboot


def phase_of(request: RebootRequest | None, reboot: Reboot | None) -> str:
    """How far the reboot of a machine has got, as RebootReport says it; '' if it is not to be rebooted."""
    current = current_reboot(request, reboot)
    return current.phase if current else QUEUED if request else ""


async def read_queue(reader: Reader, now: float) -> RebootQueue:
    """The queue as it is in the store."""
    machines = await reader.machines()
    requests = {key[0]: request for key, request in (await reader.read(REBOOT_REQUESTS)).items()}
    reboots = {key[0]: reboot for key, reboot in (await reader.read(REBOOTS)).items()}
    settings = (await reader.get_many(CLUSTER_SETTINGS, [()])).get((), ClusterSettings())
    leader = (await reader.get_many(LEADER, [()])).get(())
    policy = _policy(settings, machines.get(leader.machine) if leader else None)
    return RebootQueue(machines, requests, reboots, policy, now)


def _policy(settings: ClusterSettings, leader: Machine | None) -> RebootPolicy:
    """What the leader goes by: the settings of the cluster, where there are none its fleet.conf."""
    configured = {name: ClusterSetting(value) for name, value in leader.configured.items()} if leader else {}
    return reboot_policy(settings, reboot_policy(ClusterSettings(configured), RebootPolicy()))


def describe_queue(queue: RebootQueue) -> list[schema.RebootReport]:
    """Those that have a slot, those that wait for one, those that were given up."""
    holders, waiting = queue.holders, queue.waiting
    given_up = sorted({*queue.reboots} - {*holders, *waiting})
    return [describe_reboot(queue, machine) for machine in (*holders, *waiting, *given_up)]


def describe_reboot(queue: RebootQueue, machine: str) -> schema.RebootReport:
    """Where the reboot of one machine stands."""
    known, request, reboot = queue.machines.get(machine), queue.requests.get(machine), queue.current(machine)
    report = schema.RebootReport(
        machine,
        IDLE,
        address=known.address if known else "",
        boot=known.boot_id if known else "",
        required=known.reboot_required if known else "",
    )
    if request is not None:
        report = msgspec.structs.replace(
            report,
            id=request.id,
            by=request.by,
            at=request.at,
            deadline=request.drain_within_s,
            now=request.now,
            client=request.client,
            ends=request.boot_id,
        )
    if reboot is not None:
        return _describe_begun(queue, reboot, report)
    return _describe_queued(queue, report) if request is not None else report


def _describe_queued(queue: RebootQueue, report: schema.RebootReport) -> schema.RebootReport:
    reason, waits_for = _explain_wait(queue, report.machine)
    return msgspec.structs.replace(
        report,
        phase=QUEUED,
        place=queue.waiting.index(report.machine) + 1,
        since=report.at,
        reason=reason,
        waits_for=tuple(waits_for),
    )


def _explain_wait(queue: RebootQueue, machine: str) -> tuple[str, Sequence[str]]:
    """Why the machine has no slot yet, and the machines that it waits for."""
    known, waiting, holders = queue.machines.get(machine), queue.waiting, queue.holders
    if known is None or known.mode is not MachineMode.READY:
        return _NOT_TAKING_PART[known.mode if known else None], ()
    if stopped := [each for each in holders if queue.reboots[each].stops_queue]:
        return f"waits: the queue has stopped, because of {_names(stopped)}", stopped
    if (opens := _opens(queue, machine)) > queue.now:
        return f"waits for the reboot window, which opens {render_moment(opens)}", ()
    if len(holders) >= queue.policy.slots:
        return f"waits for the reboot of {_names(holders)}", holders
    before = reversed(waiting[: waiting.index(machine)])
    if next_before := next((each for each in before if _may_begin(queue, each)), ""):
        return f"waits for its turn after {_names([next_before])}", (next_before,)
    if drained := [each for each in holders if queue.reboots[each].phase is RebootPhase.DRAINING]:
        return f"waits until {_names(drained)} is drained", drained
    if not known.etcd_member:
        return "waits for the leader", ()
    if members := [each for each in holders if queue.reboots[each].etcd_member]:
        return f"waits for the reboot of {_names(members)}, which hosts a member of etcd, too", members
    return "waits until all other members of etcd are healthy", ()


def _opens(queue: RebootQueue, machine: str) -> float:
    """The Unix time from which the machine may begin to reboot, as windows go."""
    return queue.now if queue.requests[machine].now else next_opening(queue.policy.windows, queue.now)


def _may_begin(queue: RebootQueue, machine: str) -> bool:
    """True if a machine that waits would take a free slot."""
    known = queue.machines.get(machine)
    return known is not None and known.mode is MachineMode.READY and _opens(queue, machine) <= queue.now


def _describe_begun(queue: RebootQueue, reboot: Reboot, report: schema.RebootReport) -> schema.RebootReport:
    known, request = queue.machines.get(report.machine), queue.requests.get(report.machine)
    return msgspec.structs.replace(
        report,
        phase=reboot.phase,
        since=reboot.changed,
        reason=_explain(reboot, request, known),
        units=reboot.waits,
        kept=reboot.kept,
        failure=reboot.failure or "",
        remedy=_REMEDIES[reboot.failure].format(machine=report.machine[:SHORT_ID_LENGTH]) if reboot.failure else "",
        id=reboot.id,
        by=reboot.by,
        client=reboot.client,
        ends=reboot.boot_id,
    )


def _explain(reboot: Reboot, request: RebootRequest | None, known: Machine | None) -> str:
    """What the reboot waits for, or how it ended."""
    units = _list(reboot.waits, " is", " are")
    if reboot.failure is not None:
        return _explain_failure(reboot, units)
    if request is None and reboot.phase is not RebootPhase.RETURNING:
        return "is not rebooted any more: that was cancelled"
    match reboot.phase:
        case RebootPhase.DRAINING:
            waits = f", and waits for {_list(reboot.waits)}" if reboot.waits else ""
            return f"is being drained{waits}"
        case RebootPhase.RETURNING:
            return f"is back, and waits until {units} active and proven" if units else "is back"
    if known is None or known.boot_id != reboot.boot_id:
        return "is rebooting"
    if known.mode is not MachineMode.READY:
        return "shuts down"
    if not reboot.client:
        return "is told to reboot"
    if request is not None and request.granted:
        return f"may reboot: its FleetLock client was told so at {render_moment(request.granted)}"
    return "may reboot, which its FleetLock client learns when it asks again"


def _explain_failure(reboot: Reboot, units: str) -> str:
    match reboot.failure:
        case RebootFailure.DEADLINE:
            return f"was not rebooted: {_list(reboot.waits) or 'units'} still ran there at the deadline"
        case RebootFailure.NOT_BACK:
            return "has not come back within ten minutes"
        case RebootFailure.NOT_SERVING:
            return f"is back, but within ten minutes {_list(reboot.waits) or 'its units'} did not become active"
        case RebootFailure.RESTORED:
            return "was not rebooted: the store was restored from a snapshot meanwhile"
        case RebootFailure.CANCELLED:
            return "was not rebooted: that was cancelled"
    return f"was not rebooted: {reboot.detail}"


def _names(machines: Sequence[str]) -> str:
    """The machines as lists show them, without their verb."""
    return _list([machine[:SHORT_ID_LENGTH] for machine in machines])


def _list(names: Sequence[str], one: str = "", several: str = "") -> str:
    """The first of these names and how many more there are, with the verb for one or for several; '' for none."""
    if not names:
        return ""
    more = [f"and {len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join([*names[:MOST_NAMED], *more]) + (one if len(names) == 1 else several)
