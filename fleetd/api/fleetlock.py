"""The FleetLock protocol, by which Zincati and others ask whether they may reboot their machine, and say when it is up
again. Here a lock is a slot in the queue of reboots (api/v2/reboots.py), and it is held once the machine is drained.

A client asks `/v1/pre-reboot` again and again until the answer is 200, reboots its machine by itself, and asks
`/v1/steady-state` until the answer to that is 200. Each other answer has the body `{"kind": WORD, "value": SENTENCE}`,
and there are as many kinds as this module names. Imported only where fleetlock_listen is set.
"""

import hmac
import re
from collections.abc import Callable
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from fleetd.api.capabilities import refuse_outdated
from fleetd.api.http import NO_STORE, ApiError, Request, Response, render_json, to_api_error
from fleetd.api.reboot_queue import RebootQueue, describe_reboot, read_queue
from fleetd.api.v2.reboots import guards
from fleetd.model.decoding import UNREADABLE
from fleetd.model.machine import SHORT_ID_LENGTH, Capability, Machine, MachineMode
from fleetd.model.names import visible
from fleetd.model.reboot import DRAIN_WITHIN_S, RebootPhase, RebootRequest
from fleetd.registry.records import REBOOT_REQUESTS, MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Conflict, Delete, Operation, Unavailable

PRE_REBOOT = "/v1/pre-reboot"
STEADY_STATE = "/v1/steady-state"
HEADER = "fleet-lock-protocol"  # whose value is `true`
ZINCATI = bytes.fromhex("de35106b6ec24688b63afddaa156679b")  # the application id from which it makes that of a machine
USER = "FleetLock"  # who asks, in the queue
MAX_ID = 64  # characters of a client's id that an answer repeats
_ATTEMPTS = 5  # while the leader writes the same records
_GROUP = re.compile(r"[a-zA-Z0-9.-]+", re.ASCII)
_KINDS = {
    400: "bad_request",
    403: "forbidden",
    404: "unknown_path",
    405: "wrong_method",
    408: "timeout",
    409: "outdated_fleetd",
    413: "too_large",
    431: "too_large",
    503: "unavailable",
}


class ClientParams(msgspec.Struct, frozen=True):
    """Who asks. The group has no meaning here: there is one queue, with `reboot_slots` slots."""

    id: str
    group: str


class LockRequest(msgspec.Struct, frozen=True):
    """The body of every request."""

    client_params: ClientParams


class LockError(msgspec.Struct, frozen=True):
    """The body of every answer but 200."""

    kind: str
    value: str


class Refused(Exception):
    """The answer is not 200: its status, its kind, and a sentence for people."""

    def __init__(self, status: int, kind: str, value: str) -> None:
        super().__init__(value)
        self.status = status
        self.kind = kind


class Plan(msgspec.Struct, frozen=True):
    """What to write, and then to answer: None for 200."""

    operations: tuple[Operation, ...] = ()
    refusal: Refused | None = None


class FleetLock:
    """Answers the protocol's requests. `not_ready()` is why no request can be answered yet, '' if it can. `unix_now` is
    the wall clock; `new_id` returns a unique word."""

    def __init__(
        self,
        registry: Registry,
        not_ready: Callable[[], str],
        unix_now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._registry = registry
        self._not_ready = not_ready
        self._unix_now = unix_now
        self._new_id = new_id

    async def handle(self, request: Request) -> Response:
        """The response to a request."""
        try:
            await self._answer(request)
        except Refused as refused:
            return render_json(LockError(refused.kind, str(refused)), refused.status)
        except (ApiError, MalformedRecord, Unavailable) as error:
            refusal = to_api_error(error)
            return render_refusal(refusal.status, str(refusal), refusal.headers)
        return render_json({})

    async def _answer(self, request: Request) -> None:
        """Raises Refused, ApiError, MalformedRecord and Unavailable."""
        plan = {PRE_REBOOT: self._plan_lock, STEADY_STATE: self._plan_release}.get(request.path)
        if plan is None:
            raise Refused(404, "unknown_path", f"there are {PRE_REBOOT} and {STEADY_STATE}: check base_url")
        if request.method != "POST":
            raise ApiError(405, f"only POST is supported for {request.path}", (("Allow", "POST"),))
        if request.header_values("Origin"):
            raise ApiError(403, "requests of web pages are refused")
        client = parse_client(request)
        if reason := self._not_ready():
            raise ApiError(503, f"{NO_STORE}: {reason}")
        for _ in range(_ATTEMPTS):
            queue = await read_queue(self._registry.at_one_revision(), self._unix_now())
            machine = find_machine(queue, client)
            planned = plan(queue, machine, client)
            try:
                if planned.operations:
                    await self._registry.store.transact(guards(self._registry, queue, machine), planned.operations)
            except Conflict:
                continue
            if planned.refusal:
                raise planned.refusal
            return
        raise ApiError(503, "the leader changes this reboot all the time: ask again")

    def _plan_lock(self, queue: RebootQueue, machine: str, client: str) -> Plan:
        """Ask for the reboot of the machine; it may begin once the leader has ordered it. Raises Refused, ApiError."""
        refuse_outdated(queue.machines.values(), Capability.REBOOTS)
        known = queue.machines.get(machine)
        if known is None or known.mode is not MachineMode.READY:
            why = _NOT_READY[known.mode if known else None]
            raise Refused(409, "not_ready", f"machine {machine[:SHORT_ID_LENGTH]} {why}")
        request, reboot = queue.requests.get(machine), queue.current(machine)
        if reboot is not None and reboot.holds_slot and reboot.boot_id != known.boot_id:
            raise _waits(queue, machine, "returning")
        if request is not None and request.client and reboot is not None and reboot.failure and reboot.holds_slot:
            # The client was told that it may, and has not done it in time: it gets in line again.
            return Plan((Delete(self._registry.key(REBOOT_REQUESTS, machine)),), _waits(queue, machine, "queued"))
        if request is None or request.boot_id != known.boot_id:
            return self._ask(queue, machine, known, client)
        if not request.client:
            raise Refused(
                409, "asked_by_operator", f"{_describe(queue, machine)}; fleetd reboots it when it is its turn"
            )
        if reboot is None or reboot.id != request.id:
            raise _waits(queue, machine, "queued")
        if reboot.phase is not RebootPhase.ORDERED:
            raise _waits(queue, machine, "draining")
        if request.granted:
            return Plan()
        return Plan((self._registry.put(replace(request, granted=queue.now), machine),))

    def _ask(self, queue: RebootQueue, machine: str, known: Machine, client: str) -> Plan:
        """Put the machine at the end of the queue."""
        request = RebootRequest(self._new_id(), known.boot_id, USER, queue.now, DRAIN_WITHIN_S, client=client)
        after = replace(queue, requests={**queue.requests, machine: request})
        return Plan((self._registry.put(request, machine),), _waits(after, machine, "queued"))

    def _plan_release(self, queue: RebootQueue, machine: str, _: str) -> Plan:
        """Give back the slot, which the leader does once the machine serves again. Raises Refused."""
        known, request, reboot = queue.machines.get(machine), queue.requests.get(machine), queue.current(machine)
        held = reboot if reboot is not None and reboot.client and reboot.holds_slot else None
        asked = request if request is not None and request.client else None
        if held is None and asked is None:
            return Plan()
        if known is None:
            raise Refused(409, "returning", f"the fleetd of machine {machine[:SHORT_ID_LENGTH]} is not registered yet")
        if held is not None and held.boot_id != known.boot_id:
            raise _waits(queue, machine, "returning")
        # It was not rebooted, or not in its turn: the leader ends what it has begun when the request is gone.
        return Plan((Delete(self._registry.key(REBOOT_REQUESTS, machine)),) if asked else ())


_NOT_READY = {
    None: "is absent: is its fleetd running?",
    MachineMode.LEAVING: "shuts down or leaves the cluster already",
    MachineMode.PARKED: "is parked: start its fleetd again (systemctl start fleet), which has it drained",
}


def render_refusal(status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """An error of HTTP, of the store or of the API in the protocol's form."""
    text = message.encode(errors="backslashreplace").decode() or "the request failed"
    response = render_json(LockError(_KINDS.get(status, "internal_error"), text), status)
    return Response(status, response.headers + headers, response.body)


def parse_client(request: Request) -> str:
    """The id of the client that asks. Raises Refused."""
    if request.header_values(HEADER) != ["true"]:
        raise Refused(400, "missing_header", f"the header `{HEADER}: true` is missing")
    try:
        params = msgspec.json.decode(request.body, type=LockRequest).client_params
    except (*UNREADABLE, RecursionError) as error:
        raise Refused(400, "bad_request", f"the body is not what the protocol says: {error}") from error
    if not params.id:
        raise Refused(400, "bad_request", "client_params.id is empty")
    if not _GROUP.fullmatch(params.group):
        raise Refused(400, "bad_request", "client_params.group has to consist of letters, digits, dots and dashes")
    return params.id


@lru_cache(maxsize=4096)
def app_specific_id(machine: str) -> str:
    """The id of a machine that Zincati sends, as sd_id128_get_machine_app_specific(3) makes it; '' if the id of the
    machine is none of systemd's."""
    try:
        digest = bytearray(hmac.digest(bytes.fromhex(machine), ZINCATI, "sha256")[:16])
    except ValueError:
        return ""
    digest[6] = digest[6] & 0x0F | 0x40  # a UUID of version 4
    digest[8] = digest[8] & 0x3F | 0x80
    return digest.hex()


def find_machine(queue: RebootQueue, client: str) -> str:
    """The machine of a client, present or in the queue: by its machine-id, or by what Zincati makes of it. Raises
    Refused."""
    given = client.replace("-", "").lower()
    for machine in {**queue.machines, **queue.requests, **queue.reboots}:
        if given in (machine, app_specific_id(machine)):
            return machine
    raise Refused(
        404,
        "unknown_client",
        f"no machine of the cluster has the id {visible(client[:MAX_ID])}: the id has to be its machine-id, or "
        "what Zincati makes of it (systemd-id128 machine-id --app-specific=" + ZINCATI.hex() + ")",
    )


def _waits(queue: RebootQueue, machine: str, kind: str) -> Refused:
    return Refused(409, kind, _describe(queue, machine))


def _describe(queue: RebootQueue, machine: str) -> str:
    report = describe_reboot(queue, machine)
    remedy = f"; {report.remedy}" if report.remedy else ""
    return f"machine {machine[:SHORT_ID_LENGTH]} {report.reason}{remedy}"
