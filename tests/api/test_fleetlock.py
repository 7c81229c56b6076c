"""The FleetLock protocol: what a client has to send, when it may reboot its machine, when its slot is free again."""

import json
from typing import Any

import msgspec
import pytest

from contrib.testbed.etcd import free_port
from fleetd.api.fleetlock import PRE_REBOOT, STEADY_STATE, FleetLock, app_specific_id, render_refusal
from fleetd.api.http import Request
from fleetd.api.server import MAX_BODY_BYTES, Server
from fleetd.config.options import Address
from fleetd.model.machine import Capability, Machine, MachineMode
from fleetd.model.reboot import Reboot, RebootFailure, RebootPhase, RebootRequest
from fleetd.registry.records import REBOOT_REQUESTS, REBOOTS
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Conflict, Delete, Unavailable
from tests.api.conftest import Fleet
from tests.api.served import LOOPBACK, Client, ask
from tests.api.test_operations import Unsteady

AT = 1_800_014_400.0
ABLE = dict.fromkeys(Capability, True)
M1, M2 = "3d1219c7c4c5404aaa1f6d2a48adfda4", "2" * 32
ZINCATI_1 = (
    "975228d46dc94622b9bbe16671e2b58d"  # systemd-id128 machine-id --app-specific=de35106b6ec24688b63afddaa156679b
)
HEADERS = (("Fleet-Lock-Protocol", "true"),)


class Lock:
    """A FleetLock server over the registry of a fleet, as the client of the first machine sees it."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.reason = ""
        self.at = AT
        ids = iter(f"q{number}" for number in range(1, 100))
        self.server = FleetLock(fleet.registry, lambda: self.reason, lambda: self.at, lambda: next(ids))

    async def send(self, path: str, body: Any, method: str = "POST", headers: Any = HEADERS) -> tuple[int, Any]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = await self.server.handle(Request(method, path, headers=headers, body=content))
        entity = json.loads(response.body)
        if response.status != 200:
            assert ("Content-Type", "application/json") in response.headers
            assert list(entity) == ["kind", "value"]
            assert all(isinstance(part, str) and part for part in entity.values())
        return response.status, entity

    async def ask(self, path: str, client: str = ZINCATI_1, group: str = "default") -> tuple[int, Any]:
        return await self.send(path, {"client_params": {"id": client, "group": group}})

    async def lock(self, client: str = ZINCATI_1) -> tuple[int, str, str]:
        """Status, kind and value of an answer to pre-reboot."""
        status, entity = await self.ask(PRE_REBOOT, client)
        return status, entity.get("kind", ""), entity.get("value", "")

    async def release(self, client: str = ZINCATI_1) -> tuple[int, str, str]:
        """The same of steady-state."""
        status, entity = await self.ask(STEADY_STATE, client)
        return status, entity.get("kind", ""), entity.get("value", "")

    async def request(self, machine: str = M1) -> RebootRequest | None:
        found = await self.fleet.registry.get_many(REBOOT_REQUESTS, [(machine,)])
        return msgspec.structs.replace(found[machine,], revision=0) if found else None

    async def lead(self, phase: RebootPhase, **fields: Any) -> None:
        """The leader has got so far with the reboot of the first machine."""
        request = await self.request()
        id_, boot_id = (request.id, request.boot_id) if request else ("q1", "b1")
        await self.fleet.put(Reboot(id_, boot_id, phase, client=ZINCATI_1, **fields), M1)

    async def boot(self, boot_id: str = "b2", **fields: Any) -> None:
        """The machine has booted, and its fleetd is registered."""
        await self.fleet.put(Machine(M1, boot_id=boot_id, capabilities=ABLE, **fields), M1)

    async def delete(self, *kinds: str) -> None:
        await self.fleet.registry.store.transact([], [Delete(f"/fleet/{kind}/{M1}") for kind in kinds])


@pytest.fixture
async def lock(fleet: Fleet) -> Lock:
    for number, id_ in enumerate((M1, M2), 1):
        await fleet.put(Machine(id_, address=f"10.0.0.{number}", boot_id=f"b{number}", capabilities=ABLE), id_)
    return Lock(fleet)


OK = (200, "", "")


@pytest.mark.covers("C.12")
async def test_a_client_gets_the_lock_once_its_machine_is_drained_and_gives_it_back_when_it_serves(lock: Lock) -> None:
    assert await lock.release() == OK, "there is nothing to give back"
    assert await lock.lock() == (409, "queued", "machine 3d1219c7 waits for the leader")
    assert await lock.request() == RebootRequest("q1", "b1", "FleetLock", AT, 900.0, client=ZINCATI_1)
    assert (await lock.lock())[:2] == (409, "queued"), "and it has its place"
    await lock.lead(RebootPhase.DRAINING, waits=("web@1.service",))
    draining = (409, "draining", "machine 3d1219c7 is being drained, and waits for web@1.service")
    assert await lock.lock() == draining
    await lock.lead(RebootPhase.ORDERED)
    lock.at += 300
    assert await lock.lock() == OK
    granted = await lock.request()
    assert granted is not None
    assert (granted.id, granted.granted) == ("q1", AT + 300)
    revision = await lock.fleet.registry.store.revision()
    assert await lock.lock() == OK, "locks are recursive"
    assert await lock.fleet.registry.store.revision() == revision

    await lock.delete("machines")
    assert await lock.release() == (409, "returning", "the fleetd of machine 3d1219c7 is not registered yet")
    assert (await lock.lock())[:2] == (409, "not_ready")
    await lock.boot()
    assert await lock.release() == (409, "returning", "machine 3d1219c7 is rebooting")
    await lock.lead(RebootPhase.RETURNING, waits=("log.service",))
    returning = (409, "returning", "machine 3d1219c7 is back, and waits until log.service is active and proven")
    assert await lock.release() == returning
    assert await lock.lock() == returning, "not again before it serves"
    await lock.delete("reboots", "reboot-requests")
    assert await lock.release() == OK
    assert await lock.release() == OK


@pytest.mark.parametrize("client", [ZINCATI_1, M1, M1.upper(), "3d1219c7-c4c5-404a-aa1f-6d2a48adfda4"])
async def test_a_client_is_known_by_the_id_of_its_machine_and_by_that_which_zincati_makes_of_it(
    lock: Lock, client: str
) -> None:
    assert (await lock.lock(client))[:2] == (409, "queued")
    request = await lock.request()
    assert request is not None
    assert request.client == client
    assert (await lock.lock())[:2] == (409, "queued"), "both names are of one client"


def test_the_id_that_zincati_sends_is_that_of_systemd() -> None:
    assert app_specific_id(M1) == ZINCATI_1
    assert app_specific_id("m1") == ""


async def test_an_unknown_client_is_told_which_ids_are_known(lock: Lock) -> None:
    for path in (PRE_REBOOT, STEADY_STATE):
        status, entity = await lock.ask(path, "node\n1" + "x" * 100)
        assert (status, entity["kind"]) == (404, "unknown_client")
        assert entity["value"] == (
            f"no machine of the cluster has the id node\\n1{'x' * 58}: the id has to be its machine-id, or what "
            "Zincati makes of it (systemd-id128 machine-id --app-specific=de35106b6ec24688b63afddaa156679b)"
        )
    assert await lock.request() is None


async def test_the_first_answer_says_for_whom_the_machine_waits(lock: Lock) -> None:
    assert (await lock.ask(PRE_REBOOT, M2))[1]["value"] == "machine 22222222 waits for the leader"
    assert await lock.lock() == (409, "queued", "machine 3d1219c7 waits for its turn after 22222222")


async def test_a_reboot_that_an_operator_asked_for_is_not_the_clients(lock: Lock) -> None:
    await lock.fleet.put(RebootRequest("q0", "b1", "ann", AT), M1)
    await lock.fleet.put(Reboot("q0", "b1", RebootPhase.ORDERED, by="ann"), M1)
    status, kind, value = await lock.lock()
    assert (status, kind) == (409, "asked_by_operator")
    assert value == "machine 3d1219c7 is told to reboot; fleetd reboots it when it is its turn"
    assert await lock.release() == OK
    assert await lock.request() == RebootRequest("q0", "b1", "ann", AT)


@pytest.mark.parametrize("phase", [None, RebootPhase.DRAINING, RebootPhase.ORDERED])
async def test_a_client_that_is_steady_without_a_reboot_leaves_the_queue(lock: Lock, phase: RebootPhase | None) -> None:
    await lock.lock()
    if phase:
        await lock.lead(phase)
    assert await lock.release() == OK
    assert await lock.request() is None
    assert await lock.release() == OK


async def test_a_client_whose_machine_was_rebooted_before_its_turn_leaves_the_queue_or_is_queued_anew(
    lock: Lock,
) -> None:
    await lock.lock()
    await lock.boot()
    assert await lock.lock() == (409, "queued", "machine 3d1219c7 waits for the leader")
    request = await lock.request()
    assert request is not None
    assert (request.id, request.boot_id) == ("q2", "b2")
    await lock.boot("b3")
    assert await lock.release() == OK
    assert await lock.request() is None


async def test_a_reboot_that_was_given_up_is_asked_for_again(lock: Lock) -> None:
    await lock.lead(RebootPhase.GAVE_UP, failure=RebootFailure.DEADLINE, waits=("web.service",))
    assert await lock.release() == OK
    assert (await lock.lock())[:2] == (409, "queued")
    assert await lock.request() == RebootRequest("q1", "b1", "FleetLock", AT, 900.0, client=ZINCATI_1)


async def test_a_client_that_was_told_and_did_not_reboot_in_time_gets_in_line_again(lock: Lock) -> None:
    await lock.lock()
    await lock.lead(RebootPhase.GAVE_UP, failure=RebootFailure.NOT_BACK)
    assert (await lock.lock())[:2] == (409, "queued")
    assert await lock.request() is None, "which the leader takes for a cancellation"
    await lock.delete("reboots")
    assert (await lock.lock())[:2] == (409, "queued")
    assert await lock.request() is not None


async def test_a_machine_that_does_not_serve_after_its_reboot_keeps_its_slot_and_says_why(lock: Lock) -> None:
    await lock.lock()
    await lock.lead(RebootPhase.GAVE_UP, failure=RebootFailure.NOT_SERVING, waits=("log.service",))
    await lock.boot()
    for answer in (await lock.release(), await lock.lock()):
        assert answer[:2] == (409, "returning")
        assert answer[2].startswith("machine 3d1219c7 is back, but within ten minutes log.service did not become")
        assert answer[2].endswith("or after `fleetctl reboot --cancel 3d1219c7`")


@pytest.mark.parametrize(
    ("mode", "value"),
    [
        (MachineMode.LEAVING, "machine 3d1219c7 shuts down or leaves the cluster already"),
        (
            MachineMode.PARKED,
            "machine 3d1219c7 is parked: start its fleetd again (systemctl start fleet), which has it drained",
        ),
    ],
)
async def test_a_machine_that_does_not_take_part_gets_no_lock(lock: Lock, mode: MachineMode, value: str) -> None:
    await lock.boot("b1", mode=mode)
    assert await lock.lock() == (409, "not_ready", value)
    assert await lock.request() is None


async def test_no_lock_is_given_while_an_older_fleetd_is_registered(lock: Lock) -> None:
    await lock.fleet.put(Machine(M2, version="1.0"), M2)
    status, kind, value = await lock.lock()
    assert (status, kind) == (409, "outdated_fleetd")
    assert value.startswith("reboots cannot be used yet: machine 22222222 runs fleetd 1.0")
    assert await lock.release() == OK


@pytest.mark.parametrize("group", ["workers", "a.b-C9"])
async def test_every_group_is_in_the_one_queue(lock: Lock, group: str) -> None:
    await lock.ask(PRE_REBOOT, M2)
    _, entity = await lock.ask(PRE_REBOOT, group=group)
    assert entity["value"] == "machine 3d1219c7 waits for its turn after 22222222"


RIGHT = {"client_params": {"id": M1, "group": "default"}}


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"", "the body is not what the protocol says: Input data was truncated"),
        (b"{", "the body is not what the protocol says: Input data was truncated"),
        (b"\xff", "the body is not what the protocol says: JSON is malformed: invalid character (byte 0)"),
        (b'{"client_params":{"id":"\xff","group":"a"}}', "the body is not what the protocol says: "),
        (b"[" * 100_000, "the body is not what the protocol says: "),
        ([], "the body is not what the protocol says: Expected `object`, got `array`"),
        ({}, "the body is not what the protocol says: Object missing required field `client_params`"),
        (
            {"client_params": {"id": M1}},
            "the body is not what the protocol says: Object missing required field `group` - at `$.client_params`",
        ),
        (
            {"client_params": {"id": 7, "group": "default"}},
            "the body is not what the protocol says: Expected `str`, got `int` - at `$.client_params.id`",
        ),
        ({"client_params": {"id": "", "group": "default"}}, "client_params.id is empty"),
        *(
            (
                {"client_params": {"id": M1, "group": group}},
                "client_params.group has to consist of letters, digits, dots and dashes",
            )
            for group in ("", "a b", "ä", "a\n")
        ),
    ],
)
async def test_a_body_that_is_none_is_refused(lock: Lock, body: Any, value: str) -> None:
    for path in (PRE_REBOOT, STEADY_STATE):
        status, entity = await lock.send(path, body)
        assert (status, entity["kind"]) == (400, "bad_request")
        assert entity["value"].startswith(value)


@pytest.mark.parametrize("headers", [(), (("fleet-lock-protocol", "false"),), HEADERS * 2])
async def test_the_header_of_the_protocol_is_required(lock: Lock, headers: Any) -> None:
    status, entity = await lock.send(PRE_REBOOT, RIGHT, headers=headers)
    assert (status, entity["kind"]) == (400, "missing_header")
    assert await lock.request() is None


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "kind"),
    [
        ("GET", PRE_REBOOT, HEADERS, 405, "wrong_method"),
        ("PUT", STEADY_STATE, HEADERS, 405, "wrong_method"),
        ("POST", "/", HEADERS, 404, "unknown_path"),
        ("POST", "/v1/pre-reboot/", HEADERS, 404, "unknown_path"),
        ("POST", PRE_REBOOT, (*HEADERS, ("Origin", "http://evil.example")), 403, "forbidden"),
    ],
)
async def test_other_requests_are_refused_in_the_protocols_form(
    lock: Lock, method: str, path: str, headers: Any, status: int, kind: str
) -> None:
    assert (await lock.send(path, RIGHT, method, headers))[0] == status
    assert (await lock.send(path, RIGHT, method, headers))[1]["kind"] == kind


async def test_without_a_registered_fleetd_or_a_store_the_client_is_told_to_come_again(lock: Lock) -> None:
    lock.reason = "this machine is not registered yet"
    status, kind, value = await lock.lock()
    assert (status, kind) == (503, "unavailable")
    assert value.endswith("this machine is not registered yet")


class Contested(Unsteady):
    """A store whose next writes fail."""

    failure: Exception = Conflict()
    failures = 0

    async def before_transaction(self, number: int) -> None:
        if self.failures:
            self.failures -= 1
            raise self.failure


class Ended(Unsteady):
    """The leader ends the reboot of the first machine just before the next write."""

    is_ready = False

    async def before_transaction(self, number: int) -> None:
        if self.is_ready:
            self.is_ready = False
            await self._store.transact([], [Delete(f"/fleet/{kind}/{M1}") for kind in ("reboots", "reboot-requests")])


async def over(lock: Lock, store: Unsteady) -> Lock:
    """The same cluster behind this store, with the first machine drained for its client."""
    await lock.lock()
    await lock.lead(RebootPhase.ORDERED)
    return Lock(Fleet(Registry(store)))


async def test_a_conflict_with_the_leader_is_tried_again_and_an_absent_store_is_said(lock: Lock) -> None:
    store = Contested(lock.fleet.registry.store)
    there = await over(lock, store)
    store.failures = 99
    assert await there.lock() == (503, "unavailable", "the leader changes this reboot all the time: ask again")
    store.failure = Unavailable("etcd at … fails")
    assert (await there.lock())[:2] == (503, "unavailable")
    store.failure, store.failures = Conflict(), 2
    assert await there.lock() == OK
    assert store.failures == 0


async def test_a_lock_is_not_given_for_a_reboot_that_the_leader_has_ended_meanwhile(lock: Lock) -> None:
    store = Ended(lock.fleet.registry.store)
    there = await over(lock, store)
    store.is_ready = True
    assert (await there.lock())[:2] == (409, "queued")
    assert await lock.fleet.registry.read(REBOOTS) == {}
    request = await lock.request()
    assert request is not None
    assert request.granted == 0


async def test_what_does_not_reach_the_protocol_is_refused_in_its_form_too(lock: Lock) -> None:
    address = Address(host=LOOPBACK, port=free_port())
    server = Server(lock.server, render_error=render_refusal)
    await server.start([address], insecure=False, for_anybody=True)
    try:
        for path, body, status, kind in (
            (PRE_REBOOT, json.dumps(RIGHT), 409, "queued"),
            (PRE_REBOOT, b"x" * (MAX_BODY_BYTES + 1), 413, "too_large"),
            (f"/{'x' * 100_000}", "", 431, "too_large"),
        ):
            response, content = await ask(Client(address), "POST", path, body=body, headers=dict(HEADERS))
            assert (response.status, json.loads(content)["kind"]) == (status, kind)
    finally:
        await server.stop()
