"""The queue of reboots: what is asked for, what is refused, what is shown of it, and how it is cancelled."""

import time
from typing import Any

import msgspec
import pytest

from fleetd.api import schema
from fleetd.api.reboot_queue import RebootQueue, describe_queue
from fleetd.model.cluster_settings import ClusterSetting, ClusterSettings
from fleetd.model.machine import Capability, Machine, MachineMode
from fleetd.model.reboot import WHEN_REQUIRED, Reboot, RebootFailure, RebootPhase, RebootRequest
from fleetd.model.reboot_window import parse_reboot_windows
from fleetd.registry.records import REBOOT_REQUESTS, REBOOTS, Leader, Synced
from fleetd.scheduler.reboot_policy import RebootPolicy
from fleetd.store.protocol import Delete
from tests.api.conftest import JSON, Fleet

AT = 1_800_014_400.0
ABLE = dict.fromkeys(Capability, True)
M1, M2, M3 = (digit * 32 for digit in "123")
ORDER = (M1, M2, M3)


@pytest.fixture
async def machines(fleet: Fleet) -> Fleet:
    """A cluster of three machines."""
    ids = iter(f"q{number}" for number in range(1, 100))
    fleet.reconfigure(unix_now=lambda: AT, new_id=lambda: next(ids))
    for number, id_ in enumerate(ORDER, 1):
        await fleet.put(Machine(id_, address=f"10.0.0.{number}", boot_id=f"b{number}", capabilities=ABLE), id_)
    return fleet


async def reboot(fleet: Fleet, machine: str, by: str = "ann", **body: Any) -> schema.RebootReport:
    response = await fleet.ask(f"PUT {path(machine)}", body, (*JSON, ("Fleet-User", by)))
    assert response.status == 200, response.body
    return msgspec.json.decode(response.body, type=schema.RebootReport)


def path(machine: str) -> str:
    return f"/fleet/v2/machines/{machine}/reboot"


async def cancel(fleet: Fleet, machine: str) -> None:
    response = await fleet.ask(f"DELETE {path(machine)}")
    assert (response.status, response.body) == (204, b"")


async def queue(fleet: Fleet, *asked: str) -> list[schema.RebootReport]:
    query = "&".join(f"machine={machine}" for machine in asked)
    found = await fleet.ask(f"GET /fleet/v2/reboots?{query}")
    return list(msgspec.json.decode(found.body, type=schema.RebootReports).reboots)


async def requests(fleet: Fleet) -> dict[str, RebootRequest]:
    found = await fleet.registry.read(REBOOT_REQUESTS)
    return {key[0]: msgspec.structs.replace(request, revision=0) for key, request in found.items()}


async def begin(fleet: Fleet, machine: str, phase: RebootPhase = RebootPhase.DRAINING, **fields: Any) -> None:
    """The leader has given the machine a slot."""
    request = (await requests(fleet))[machine]
    given = {"by": request.by, "began": AT + 1, "changed": AT + 1, **fields}
    await fleet.put(Reboot(request.id, request.boot_id, phase, **given), machine)


async def test_a_reboot_is_asked_for_and_says_who_asked_and_how(machines: Fleet) -> None:
    report = await reboot(machines, M1, deadline=900, now=True)
    assert await requests(machines) == {M1: RebootRequest("q1", "b1", "ann", AT, drain_within_s=900, now=True)}
    assert report == schema.RebootReport(
        M1,
        "queued",
        address="10.0.0.1",
        place=1,
        since=AT,
        reason="waits for the leader",
        id="q1",
        by="ann",
        at=AT,
        deadline=900,
        now=True,
        boot="b1",
        ends="b1",
    )
    assert await queue(machines) == [report]
    listed = msgspec.json.decode((await machines.ask("GET /fleet/v1/machines")).body)["machines"]
    assert [machine.get("reboot") for machine in listed] == ["queued", None, None]


async def test_the_same_request_again_changes_nothing_and_other_options_count(machines: Fleet) -> None:
    await reboot(machines, M1, deadline=0)
    before = await machines.registry.store.revision()
    assert (await reboot(machines, M1, by="bob", deadline=0)).by == "ann"
    assert await machines.registry.store.revision() == before
    assert (await reboot(machines, M1, by="bob", now=True)).now
    assert (await requests(machines))[M1] == RebootRequest("q1", "b1", "ann", AT, drain_within_s=900, now=True)


async def test_a_machine_with_a_slot_is_not_asked_for_again(machines: Fleet) -> None:
    await reboot(machines, M1)
    for phase in (RebootPhase.DRAINING, RebootPhase.ORDERED, RebootPhase.RETURNING):
        await begin(machines, M1, phase)
        report = await reboot(machines, M1, now=True)
        assert (report.phase, report.now, report.id) == (phase, False, "q1")


async def test_the_queue_shows_its_order_and_for_whom_each_waits(machines: Fleet) -> None:
    for machine in (M3, M1, M2):
        await reboot(machines, machine)
        machines.reconfigure(unix_now=lambda: AT + len(ORDER), new_id=lambda id_=machine: id_)
    found = await queue(machines)
    assert [(each.machine, each.place, each.reason, each.waits_for) for each in found] == [
        (M3, 1, "waits for the leader", ()),
        (M1, 2, "waits for its turn after 33333333", (M3,)),
        (M2, 3, "waits for its turn after 11111111", (M1,)),
    ]
    await begin(machines, M3, waits=("web@1.service",), kept=("log.service",))
    holder, *others = await queue(machines)
    assert (holder.machine, holder.phase, holder.place) == (M3, "draining", 0)
    assert (holder.since, holder.at, holder.by) == (AT + 1, AT, "ann")
    assert (holder.units, holder.kept) == (("web@1.service",), ("log.service",))
    assert holder.reason == "is being drained, and waits for web@1.service"
    assert [(each.place, each.reason, each.waits_for) for each in others] == [
        (1, "waits for the reboot of 33333333", (M3,)),
        (2, "waits for the reboot of 33333333", (M3,)),
    ]
    await begin(machines, M3, RebootPhase.GAVE_UP, failure=RebootFailure.NOT_BACK)
    assert {each.reason for each in (await queue(machines))[1:]} == {
        "waits: the queue has stopped, because of 33333333"
    }


FOUR = ("a.service", "b.service", "c.service", "d.service")
GIVEN_UP = RebootPhase.GAVE_UP


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"phase": RebootPhase.DRAINING}, "is being drained"),
        ({"waits": FOUR}, "is being drained, and waits for a.service, b.service, c.service, and 1 more"),
        ({"phase": RebootPhase.ORDERED}, "is told to reboot"),
        ({"phase": RebootPhase.ORDERED, "boot_id": "b0"}, "is rebooting"),
        ({"phase": RebootPhase.RETURNING}, "is back"),
        (
            {"phase": RebootPhase.RETURNING, "waits": FOUR[:2]},
            "is back, and waits until a.service, b.service are active and proven",
        ),
        (
            {"phase": GIVEN_UP, "failure": RebootFailure.DEADLINE, "waits": FOUR[:1]},
            "was not rebooted: a.service still ran there at the deadline",
        ),
        (
            {"phase": GIVEN_UP, "failure": RebootFailure.DEADLINE},
            "was not rebooted: units still ran there at the deadline",
        ),
        ({"phase": GIVEN_UP, "failure": RebootFailure.NOT_BACK}, "has not come back within ten minutes"),
        (
            {"phase": GIVEN_UP, "failure": RebootFailure.NOT_SERVING, "waits": FOUR[:1]},
            "is back, but within ten minutes a.service did not become active",
        ),
        (
            {"phase": GIVEN_UP, "failure": RebootFailure.REFUSED, "detail": "inhibited by backup"},
            "was not rebooted: inhibited by backup",
        ),
        (
            {"phase": GIVEN_UP, "failure": RebootFailure.RESTORED},
            "was not rebooted: the store was restored from a snapshot meanwhile",
        ),
        ({"phase": GIVEN_UP, "failure": RebootFailure.CANCELLED}, "was not rebooted: that was cancelled"),
    ],
)
async def test_each_phase_and_failure_has_words(machines: Fleet, fields: dict[str, Any], reason: str) -> None:
    await reboot(machines, M1)
    await machines.put(Reboot(**{"id": "q1", "boot_id": "b1", **fields}), M1)
    [report] = await queue(machines)
    assert (report.reason, report.failure) == (reason, fields.get("failure", ""))
    assert bool(report.remedy) == bool(report.failure)


async def ask_for_all(fleet: Fleet, **body: Any) -> list[schema.RebootReport]:
    """The reboots of all machines are asked for, in the order of their ids."""
    for number, machine in enumerate(ORDER):
        fleet.reconfigure(unix_now=lambda at=AT + number: at, new_id=lambda id_=f"q{machine[0]}": id_)
        await reboot(fleet, machine, **body)
    return await queue(fleet)


async def set_policy(fleet: Fleet, **values: str) -> None:
    settings = {name: ClusterSetting(value) for name, value in values.items()}
    await fleet.put(ClusterSettings(settings))


async def test_a_long_queue_is_described_at_once(fleet: Fleet) -> None:
    ids = [f"{number:032x}" for number in range(1000)]
    machines = {id_: Machine(id_, boot_id="b") for id_ in ids}
    policy = RebootPolicy(parse_reboot_windows("Mon..Fri 02:00 1h"), slots=2)
    waiting = {id_: RebootRequest(id_, "b", at=AT) for id_ in ids}
    began = time.process_time()
    found = describe_queue(RebootQueue(machines, waiting, {ids[0]: Reboot(ids[0], "b")}, policy, AT))
    assert time.process_time() - began < 5.0
    assert len(msgspec.json.encode(found)) < 1_000_000
    assert [each.place for each in found] == [0, *range(1, len(ids))]


async def test_outside_the_window_machines_wait_for_it_but_those_that_go_now(machines: Fleet) -> None:
    await set_policy(machines, reboot_window="Sat 02:00 4h", reboot_slots="2")
    opens = "waits for the reboot window, which opens 2027-01-16 02:00:00 UTC"
    found = await ask_for_all(machines)
    assert [(each.reason, each.waits_for) for each in found] == [(opens, ())] * 3
    await reboot(machines, M3, now=True)
    assert [each.reason for each in await queue(machines)] == [opens, opens, "waits for the leader"]
    machines.reconfigure(unix_now=lambda: AT + 15 * 3600)  # on Saturday
    assert [each.reason for each in await queue(machines)] == [
        "waits for the leader",
        "waits for its turn after 11111111",
        "waits for its turn after 22222222",
    ]
    await begin(machines, M1)
    assert [(each.reason, each.waits_for) for each in (await queue(machines))[1:]] == [
        ("waits until 11111111 is drained", (M1,)),
        ("waits for its turn after 22222222", (M2,)),
    ]


async def test_where_there_is_no_setting_the_fleet_conf_of_the_leader_counts(machines: Fleet) -> None:
    leader = Machine(M2, boot_id="b2", capabilities=ABLE, configured={"reboot_slots": "2"})
    await machines.put(leader, M2)
    await machines.put(Leader(M2, "t1"))
    await ask_for_all(machines)
    for machine in (M1, M2):
        await begin(machines, machine, RebootPhase.ORDERED)
    assert (await queue(machines))[2].reason == "waits for the reboot of 11111111, 22222222"
    await set_policy(machines, reboot_slots="3")
    assert (await queue(machines))[2].reason == "waits for the leader"


async def test_who_does_not_take_part_lets_others_go_first(machines: Fleet) -> None:
    await ask_for_all(machines)
    await machines.registry.store.transact([], [Delete(f"/fleet/machines/{M1}")])
    await machines.put(Machine(M2, boot_id="b2", mode=MachineMode.PARKED, capabilities=ABLE), M2)
    assert [each.reason for each in await queue(machines)] == [
        "is absent: its turn comes when it is back",
        "is parked: its turn comes when its fleetd is started again",
        "waits for the leader",
    ]


async def test_members_of_etcd_go_one_after_the_other_and_while_all_others_are_healthy(machines: Fleet) -> None:
    await set_policy(machines, reboot_slots="3")
    await machines.put(Machine(M2, boot_id="b2", capabilities=ABLE, etcd_member="e2"), M2)
    await ask_for_all(machines)
    await begin(machines, M1, RebootPhase.ORDERED)
    assert (await queue(machines))[1].reason == "waits until all other members of etcd are healthy"
    await begin(machines, M1, RebootPhase.ORDERED, etcd_member="e1")
    found = (await queue(machines))[1]
    assert found.reason == "waits for the reboot of 11111111, which hosts a member of etcd, too"
    assert found.waits_for == (M1,)


@pytest.mark.parametrize("mode", [MachineMode.LEAVING, None])
async def test_a_machine_that_goes_says_so(machines: Fleet, mode: MachineMode | None) -> None:
    await reboot(machines, M1)
    await begin(machines, M1, RebootPhase.ORDERED)
    if mode:
        await machines.put(Machine(M1, boot_id="b1", mode=mode, capabilities=ABLE), M1)
    else:
        await machines.registry.store.transact([], [Delete(f"/fleet/machines/{M1}")])
    [report] = await queue(machines)
    assert report.reason == ("shuts down" if mode else "is rebooting")


async def test_what_a_fleetlock_client_may_do_has_words(machines: Fleet) -> None:
    request = RebootRequest("q1", "b1", "FleetLock", AT, client=M1)
    await machines.put(request, M1)
    await begin(machines, M1, RebootPhase.ORDERED, client=M1)
    [report] = await queue(machines)
    assert report.client == M1
    assert report.reason == "may reboot, which its FleetLock client learns when it asks again"
    await machines.put(msgspec.structs.replace(request, granted=AT), M1)
    [report] = await queue(machines)
    assert report.reason == "may reboot: its FleetLock client was told so at 2027-01-15 12:00:00 UTC"


async def test_a_machine_that_was_given_up_is_queued_again_when_it_is_asked_for(machines: Fleet) -> None:
    await machines.put(Reboot("q0", "b1", GIVEN_UP, RebootFailure.DEADLINE), M1)
    [report] = await queue(machines)
    assert (report.phase, report.failure) == ("gave-up", "deadline")
    assert (await reboot(machines, M1)).phase == "queued"
    [report] = await queue(machines)
    assert (report.phase, report.failure, report.place) == ("queued", "", 1)


@pytest.mark.parametrize("failure", [RebootFailure.NOT_BACK, RebootFailure.NOT_SERVING])
async def test_a_machine_that_holds_a_slot_is_not_queued_again(machines: Fleet, failure: RebootFailure) -> None:
    await machines.put(Reboot("q0", "b1", GIVEN_UP, failure), M1)
    status, said = await machines.refused(f"PUT {path(M1)}", {})
    assert (status, said[:24]) == (409, "its last reboot is not d")
    assert said.endswith("the queue goes on once the machine serves, or after `fleetctl reboot --cancel 11111111`")


async def test_a_machine_that_was_rebooted_otherwise_is_asked_for_anew(machines: Fleet) -> None:
    await machines.put(RebootRequest("q0", "b0", "eve", AT), M1)
    assert (await reboot(machines, M1)).id == "q1"
    assert (await requests(machines))[M1] == RebootRequest("q1", "b1", "ann", AT, drain_within_s=900)


async def test_a_reboot_is_cancelled_as_long_as_it_has_not_begun(machines: Fleet) -> None:
    await cancel(machines, M1)
    await reboot(machines, M1)
    await cancel(machines, M1)
    assert await requests(machines) == {}
    await reboot(machines, M1)
    await begin(machines, M1)
    await cancel(machines, M1)
    assert await requests(machines) == {}
    [report] = await queue(machines)
    assert report.reason == "is not rebooted any more: that was cancelled"
    assert await machines.refused(f"PUT {path(M1)}", {}) == (
        409,
        "its last reboot is being cancelled: ask again in a moment",
    )


@pytest.mark.parametrize(("client", "granted", "is_refused"), [("", 0.0, True), (M1, AT, True), (M1, 0.0, False)])
async def test_a_machine_that_reboots_cannot_be_held_back(
    machines: Fleet, client: str, granted: float, is_refused: bool
) -> None:
    await machines.put(RebootRequest("q1", "b1", client=client, granted=granted), M1)
    await machines.put(Reboot("q1", "b1", RebootPhase.ORDERED, client=client), M1)
    if is_refused:
        refused = await machines.refused(f"DELETE {path(M1)}")
        assert refused == (409, "the machine is rebooting already, which cannot be taken back")
    else:
        await cancel(machines, M1)
    assert bool(await requests(machines)) is is_refused


async def test_a_machine_that_has_not_come_back_can_be_cancelled(fleet: Fleet) -> None:
    await fleet.put(RebootRequest("q0", "b1"), M1)
    await fleet.put(Reboot("q0", "b1", GIVEN_UP, RebootFailure.NOT_BACK), M1)
    await cancel(fleet, M1)
    assert await requests(fleet) == {}


async def test_cancelling_what_was_given_up_forgets_it(machines: Fleet) -> None:
    await machines.put(Reboot("q0", "b1", GIVEN_UP, RebootFailure.DEADLINE), M1)
    await cancel(machines, M1)
    assert await queue(machines) == []
    # What reboot_when_required would begin again stays.
    await machines.put(Reboot("q0", "b1", GIVEN_UP, RebootFailure.CANCELLED, by=WHEN_REQUIRED), M1)
    await cancel(machines, M1)
    assert [each.machine for each in await queue(machines)] == [M1]
    # With its request, the leader ends it: it holds a slot.
    await machines.put(RebootRequest("q0", "b1"), M2)
    await machines.put(Reboot("q0", "b1", GIVEN_UP, RebootFailure.NOT_BACK), M2)
    await cancel(machines, M2)
    assert await requests(machines) == {}
    assert await machines.registry.read(REBOOTS) != {}


async def test_machines_that_the_query_names_are_shown_in_any_case(machines: Fleet) -> None:
    await machines.put(Machine(M2, boot_id="b2", capabilities=ABLE, reboot_required="linux-image-6.1"), M2)
    await reboot(machines, M1)
    found = await queue(machines, M2, M1, "m9")
    assert [(each.machine, each.phase, each.required, each.boot) for each in found] == [
        (M1, "queued", "", "b1"),
        (M2, "idle", "linux-image-6.1", "b2"),
        ("m9", "idle", "", ""),
    ]
    listed = msgspec.json.decode((await machines.ask("GET /fleet/v1/machines")).body)["machines"]
    assert [machine.get("rebootRequired") for machine in listed] == [None, "linux-image-6.1", None]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"deadline": -1}, "deadline has to be a number of seconds, at most ten years; 0 for none"),
        ({"deadline": 1e300}, "deadline has to be a number of seconds, at most ten years; 0 for none"),
        ({"now": "yes"}, "unable to decode body: Expected `bool`, got `str` - at `$.now`"),
    ],
)
async def test_a_body_that_is_no_request_is_refused(machines: Fleet, body: Any, said: str) -> None:
    assert await machines.refused(f"PUT {path(M1)}", body) == (400, said)
    assert await requests(machines) == {}


async def test_an_unknown_machine_is_refused(machines: Fleet) -> None:
    for method, body in (("PUT", {}), ("DELETE", None)):
        status, said = await machines.refused(f"{method} {path('m9')}", body)
        assert (status, said) == (404, "unknown machine: give the full id of one that is or was in the cluster")


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (MachineMode.PARKED, "the machine is parked: start its fleetd again (systemctl start fleet)"),
        (MachineMode.LEAVING, "the machine shuts down or leaves the cluster"),
        (None, "the machine is absent: ask for its reboot when it is back"),
    ],
)
async def test_a_machine_that_does_not_take_part_is_not_rebooted(
    fleet: Fleet, mode: MachineMode | None, said: str
) -> None:
    await fleet.put(Machine(M1, mode=mode, capabilities=ABLE) if mode else Synced("s"), M1)
    assert await fleet.refused(f"PUT {path(M1)}", {}) == (409, said)


async def test_reboots_are_refused_while_an_older_fleetd_is_registered(machines: Fleet) -> None:
    await machines.put(Machine(M3, address="10.0.0.3", version="1.0"), M3)
    status, said = await machines.refused(f"PUT {path(M1)}", {})
    assert (status, said) == (
        409,
        "reboots cannot be used yet: machine 33333333 (10.0.0.3) runs fleetd 1.0, which does not know of them; update "
        "fleetd there first",
    )
    assert await requests(machines) == {}
    await cancel(machines, M1)


async def test_giving_up_a_parked_machine_takes_it_out_of_the_queue(machines: Fleet) -> None:
    await reboot(machines, M1)
    lease = await machines.registry.store.grant(60)
    parked = machines.registry.put(Machine(M1, mode=MachineMode.PARKED, capabilities=ABLE), M1, lease=lease)
    await machines.registry.store.transact([], [parked])
    assert (await machines.ask(f"DELETE /fleet/v2/machines/{M1}")).status == 204
    assert await requests(machines) == {}
