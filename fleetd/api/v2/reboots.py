"""Reboots: ask for that of a machine, show the queue, and take one out of it."""

from collections.abc import Callable

from msgspec.structs import replace

from fleetd.api import schema
from fleetd.api.audit import asked_machine
from fleetd.api.capabilities import refuse_outdated
from fleetd.api.http import ApiError, Request, Response, parse_json, render_json
from fleetd.api.reboot_queue import RebootQueue, describe_queue, describe_reboot, read_queue
from fleetd.api.v2.cordons import refuse_unknown
from fleetd.model.event import ClusterEvent
from fleetd.model.machine import Capability, MachineMode
from fleetd.model.reboot import WHEN_REQUIRED, RebootPhase, RebootRequest
from fleetd.model.timespan import LONGEST_S
from fleetd.registry.records import REBOOT_REQUESTS, REBOOTS
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet
from fleetd.store.protocol import Comparison, Conflict, Delete, Operation, Unchanged

_ATTEMPTS = 5  # while others write the same records
_REFUSALS = {
    None: "the machine is absent: ask for its reboot when it is back",
    MachineMode.LEAVING: "the machine shuts down or leaves the cluster",
    MachineMode.PARKED: "the machine is parked: start its fleetd again (systemctl start fleet)",
}


class Reboots:
    """The resource. `unix_now` is the wall clock; `new_id` returns a unique word."""

    def __init__(self, registry: Registry, unix_now: Callable[[], float], new_id: Callable[[], str]) -> None:
        self._registry = registry
        self._unix_now = unix_now
        self._new_id = new_id

    async def get_all(self, request: Request, _: str) -> Response:
        """Show the queue of reboots: the machines that have a slot, those that wait for one, in their order, and those
        that were given up; and the machines that the query names, in any case."""
        queue = await read_queue(self._registry.at_one_revision(), self._unix_now())
        found = describe_queue(queue)
        asked = dict.fromkeys(request.query_values("machine"))
        others = [machine for machine in asked if machine not in {each.machine for each in found}]
        found += [describe_reboot(queue, machine) for machine in others]
        return render_json(schema.RebootReports(tuple(found)))

    async def put(self, request: Request, id_: str) -> Response:
        """Have a machine rebooted when its turn comes: it is drained before, and its slot is free again when it serves
        again. For a machine that is in the queue, deadline and window change alone. The header Fleet-User says who
        asks."""
        asked = parse_json(request.body, schema.RebootRequest)
        if not 0 <= asked.deadline <= LONGEST_S:
            raise ApiError(400, "deadline has to be a number of seconds, at most ten years; 0 for none")
        await refuse_unknown(self._registry, id_)

        def plan(queue: RebootQueue) -> list[Operation]:
            refuse_outdated(queue.machines.values(), Capability.REBOOTS)
            after = _plan_request(queue, id_, asked, RebootRequest(self._new_id(), "", request.user, self._unix_now()))
            return [] if after == queue.requests.get(id_) else [self._registry.put(after, id_)]

        event = asked_machine(request.user, "reboot", id_)
        return render_json(describe_reboot(await self._change(id_, plan, event), id_))

    async def delete(self, request: Request, id_: str) -> Response:
        """Take a machine out of the queue: it is not rebooted, and is no longer drained. The record of one that was
        given up is deleted. 409 once it reboots."""
        await refuse_unknown(self._registry, id_)
        asked = asked_machine(request.user, "cancel-reboot", id_)
        await self._change(id_, lambda queue: self._plan_cancel(queue, id_), asked)
        return Response(204)

    def _plan_cancel(self, queue: RebootQueue, machine: str) -> list[Operation]:
        """The writes that take a machine out of the queue. Raises ApiError."""
        request, reboot = queue.requests.get(machine), queue.current(machine)
        is_granted = request is not None and request.granted > 0
        if reboot is not None and reboot.phase is RebootPhase.ORDERED and (not reboot.client or is_granted):
            raise ApiError(409, "the machine is rebooting already, which cannot be taken back")
        if request is not None:
            return [Delete(self._registry.key(REBOOT_REQUESTS, machine))]  # the leader then deletes the reboot
        if reboot is not None and reboot.failure is not None and reboot.by != WHEN_REQUIRED:
            return [Delete(self._registry.key(REBOOTS, machine))]  # the leader is done with it
        return []

    async def _change(
        self, machine: str, plan: Callable[[RebootQueue], list[Operation]], asked: ClusterEvent
    ) -> RebootQueue:
        """Write what `plan` makes of the queue, and return the queue after that. Raises ApiError."""
        for _ in range(_ATTEMPTS):
            queue = await read_queue(self._registry.at_one_revision(), self._unix_now())
            operations = plan(queue)
            if not operations:
                return queue
            try:
                before = tuple(guards(self._registry, queue, machine))
                await self._registry.write(WriteSet(before, tuple(operations), (asked,)))
            except Conflict:
                continue
            return await read_queue(self._registry.at_one_revision(), self._unix_now())
        raise ApiError(409, "other clients and the leader change this reboot all the time: try again")


def guards(registry: Registry, queue: RebootQueue, machine: str) -> list[Comparison]:
    """What has to be unchanged for a write about the reboot of a machine."""
    request, reboot = queue.requests.get(machine), queue.reboots.get(machine)
    return [
        Unchanged(registry.key(REBOOT_REQUESTS, machine), request.revision if request else 0),
        Unchanged(registry.key(REBOOTS, machine), reboot.revision if reboot else 0),
    ]


def _plan_request(queue: RebootQueue, machine: str, asked: schema.RebootRequest, new: RebootRequest) -> RebootRequest:
    """The request after this one: the one that there is, or the `new` one. Raises ApiError."""
    known, before, reboot = queue.machines.get(machine), queue.requests.get(machine), queue.current(machine)
    if reboot is not None and reboot.holds_slot:
        if reboot.failure is not None:
            report = describe_reboot(queue, machine)
            raise ApiError(409, f"its last reboot is not done, for the machine {report.reason}: {report.remedy}")
        if before is None:
            raise ApiError(409, "its last reboot is being cancelled: ask again in a moment")
        return before
    if before is not None and (known is None or known.boot_id == before.boot_id):
        return replace(before, now=asked.now, drain_within_s=asked.deadline)
    if known is None or known.mode is not MachineMode.READY:
        raise ApiError(409, _REFUSALS[known.mode if known else None])
    return replace(new, boot_id=known.boot_id, now=asked.now, drain_within_s=asked.deadline)
