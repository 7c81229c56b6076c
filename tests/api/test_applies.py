"""Applying units that belong together, and scaling templates: what is written, in which order, and what is refused."""

import json
import time
from typing import Any

import msgspec
import pytest

from fleetd.api.v2 import applies
from fleetd.model.content import Content
from fleetd.model.placement import Decision
from fleetd.model.quota import Usage
from fleetd.model.rollout import Phase, Rollout
from fleetd.model.unit import TargetState, Unit
from fleetd.registry.records import APPLIES, SETS, Apply
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Unavailable
from tests.api.conftest import JSON, Fleet
from tests.api.test_operations import Unsteady

SERVICE = "[Service]\nExecStart=/bin/true\n"
OTHER = "[Service]\nExecStart=/bin/false\n"
BY_ANN = (*JSON, ("Fleet-User", "ann"))


def unit(name: str, text: str = SERVICE, **dropins: str) -> dict[str, Any]:
    return {"name": name, "text": text, "dropins": [{"name": f"{key}.conf", "text": dropins[key]} for key in dropins]}


def template(fleet: str = "", text: str = SERVICE) -> dict[str, Any]:
    return unit("web@.service", f"{text}\n[X-Fleet]\n{fleet}\n" if fleet else text)


async def apply(fleet: Fleet, *units: Any, **options: Any) -> dict[str, Any]:
    """Apply these units as the set `deploy`, by ann."""
    response = await fleet.ask("POST /fleet/v2/apply", {"set": "deploy", "units": list(units), **options}, BY_ANN)
    assert response.status == 200, response.body
    return json.loads(response.body)  # type: ignore[no-any-return]


async def refused(fleet: Fleet, *units: Any, **options: Any) -> tuple[int, str]:
    return await fleet.refused("POST /fleet/v2/apply", {"set": "deploy", "units": list(units), **options})


async def scale(fleet: Fleet, instances: int, **options: Any) -> dict[str, Any]:
    body = {"template": "web@.service", "instances": instances, **options}
    response = await fleet.ask("POST /fleet/v2/scale", body, BY_ANN)
    assert response.status == 200, response.body
    return json.loads(response.body)  # type: ignore[no-any-return]


async def members(fleet: Fleet, name: str = "deploy") -> tuple[str, ...]:
    found = (await fleet.registry.read(SETS)).get((name,))
    return found.members if found else ()


async def versions(fleet: Fleet, group: str) -> list[dict[str, Any]]:
    response = await fleet.ask(f"GET /fleet/v2/versions/{group}")
    return json.loads(response.body).get("versions", [])  # type: ignore[no-any-return]


def changes(answer: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["change"] for each in answer.get("units", [])}


async def test_units_are_written_with_who_why_and_the_id_of_the_apply(fleet: Fleet) -> None:
    fleet.reconfigure(unix_now=lambda: 17.0)
    answer = await apply(fleet, template("Instances=2"), unit("db.service"), note="first")
    assert changes(answer) == dict.fromkeys(("db.service", "web@.service", "web@1.service", "web@2.service"), "new")
    written = await fleet.unit("web@1.service")
    assert written == Unit(
        "web@1.service",
        f"{SERVICE}\n[X-Fleet]\nInstances=2\n",
        TargetState.LAUNCHED,
        written.generation,
        set="deploy",
        rollout=answer["id"],
        by="ann",
        note="first",
        at=17.0,
    )
    assert (await fleet.unit("web@.service")).target is TargetState.INACTIVE
    assert await fleet.registry.read(APPLIES) == {(answer["id"],): Apply("ann", 17.0, "first")}
    assert await members(fleet) == ("db.service", "web@.service", "web@1.service", "web@2.service")


@pytest.mark.covers("C.6")
async def test_applying_again_writes_nothing_and_says_so(fleet: Fleet) -> None:
    await apply(fleet, template("Instances=2"), unit("db.service"))
    revision = await fleet.registry.store.revision()
    assert await apply(fleet, template("Instances=2"), unit("db.service"), note="again") == {"unchanged": 4}
    assert await fleet.registry.store.revision() == revision


async def test_a_plan_writes_nothing(fleet: Fleet) -> None:
    await apply(fleet, unit("db.service", SERVICE, limit="[Service]\nMemoryMax=1G\n"), unit("old.service"))
    revision = await fleet.registry.store.revision()
    answer = await apply(fleet, unit("db.service", OTHER), unit("new.service"), prune=True, plan=True, contents=True)
    assert await fleet.registry.store.revision() == revision
    assert answer == {
        "units": [
            {
                "name": "db.service",
                "change": "changed",
                "target": "launched",
                "impact": "restart",
                "because": "ExecStart= changed",
                "before": {
                    "name": "db.service",
                    "text": SERVICE,
                    "dropins": [{"name": "limit.conf", "text": "[Service]\nMemoryMax=1G\n"}],
                },
            },
            {"name": "new.service", "change": "new", "target": "launched"},
            {
                "name": "old.service",
                "change": "destroyed",
                "target": "launched",
                "because": "--prune",
                "before": {"name": "old.service", "text": SERVICE},
            },
        ],
        "groups": [{"name": "db.service", "running": 1, "maxUnavailable": "1"}],
    }


async def test_a_plan_counts_what_runs_of_a_group(fleet: Fleet) -> None:
    await apply(
        fleet, template("Instances=8\nMaxUnavailable=25%"), unit("log.service", f"{SERVICE}\n[X-Fleet]\nGlobal=true\n")
    )
    await fleet.put(Decision("log.service", 1, machines=20), "log.service")
    changed = [
        template("Instances=8\nMaxUnavailable=25%", OTHER),
        unit("log.service", f"{OTHER}\n[X-Fleet]\nGlobal=true\n"),
    ]
    answer = await apply(fleet, *changed, plan=True)
    assert answer["groups"] == [
        {"name": "log.service", "running": 20, "maxUnavailable": "1"},
        {"name": "web@.service", "running": 8, "atATime": 2, "maxUnavailable": "25%"},
    ]
    assert [each["global"] for each in answer["units"] if each.get("global")] == [True]


async def test_a_plan_names_what_forbids_it_and_the_apply_is_refused_for_that(fleet: Fleet) -> None:
    await apply(fleet, unit("a.service"), unit("b.service"), unit("c.service"))
    await apply(fleet, unit("x.service"), set="other")
    revision = await fleet.registry.store.revision()
    wanted = (unit("a.service"), unit("x.service", OTHER))
    answer = await apply(fleet, *wanted, prune=True, plan=True)
    assert len(answer["refusals"]) == 2
    status, message = await refused(fleet, *wanted, prune=True)
    assert (status, message) == (409, "; ".join(answer["refusals"]))
    assert "--take-over" in message
    assert "--yes" in message
    assert await fleet.registry.store.revision() == revision
    await apply(fleet, *wanted, prune=True, confirmed=True, takeOver=True)
    assert await members(fleet) == ("a.service", "x.service")
    assert await members(fleet, "other") == ()
    assert list(await fleet.registry.read(SETS)) == [("deploy",)]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"set": "a/b", "units": []}, 400, '"a/b" is no name of a set'),
        ({"units": [], "prune": True}, 400, "prune needs a set"),
        ({"units": [unit("a.service", "[Service")]}, 400, 'unit "a.service", line 1: unable to find end of section'),
        ({"units": [unit("a.service", "")]}, 400, 'unit "a.service" has no unit file'),
        ({"units": [unit("a.service"), unit("a.service")]}, 400, "given twice"),
        ({"units": [unit("a.service", SERVICE, x="[")]}, 400, 'unit "a.service": drop-in "x.conf", line 1'),
        ({"units": [unit("ssh.service")]}, 400, 'unit "ssh.service": unit "ssh.service" would hide /lib/'),
        ({"units": [template("MaxUnavailable=0")]}, 400, 'unit "web@.service": MaxUnavailable: with 0'),
        ({"units": [unit("../a.service")]}, 400, "invalid character"),
        ({"units": [unit("a")]}, 400, 'unit name must contain "."'),
        ({"units": [unit("a.service")], "note": "two\nlines"}, 400, "note has to be one line"),
        ({"units": [unit("a.service")], "note": "x" * 201}, 400, "note has to be one line"),
    ],
)
async def test_what_cannot_be_applied_is_refused_whole(fleet: Fleet, body: Any, status: int, message: str) -> None:
    revision = await fleet.registry.store.revision()
    body["units"] = [*body["units"], unit("good.service")]
    found = await fleet.refused("POST /fleet/v2/apply", body)
    assert found[0] == status
    assert message in found[1]
    assert await fleet.registry.store.revision() == revision


async def test_a_changed_unit_keeps_the_target_state_that_somebody_has_set(fleet: Fleet) -> None:
    await apply(fleet, unit("db.service"))
    await fleet.ask("PUT /fleet/v1/units/db.service", {"desiredState": "loaded"})
    await apply(fleet, unit("db.service", OTHER))
    assert (await fleet.unit("db.service")).target is TargetState.LOADED


async def test_a_folder_larger_than_a_transaction_has_its_apply_written_after_all_units(fleet: Fleet) -> None:
    written: list[list[str]] = []

    class Recording(Unsteady):
        async def transact(self, comparisons: Any, operations: Any) -> int:
            written.append([each.key.split("/")[2] for each in operations])
            return await super().transact(comparisons, operations)

    store = Recording(fleet.registry.store)
    large = "[Unit]\nDescription=" + "x" * 8000 + "\n" + SERVICE
    answer = await apply(Fleet(Registry(store)), *(unit(f"u{number}.service", large) for number in range(200)))
    assert len(changes(answer)) == 200
    assert len(written) > 3
    flat = [kind for each in written for kind in each if kind != "events"]
    assert flat[-2:] == ["applies", "sets"]
    assert flat.count("units") == 200
    assert flat.index("units") > flat.index("versions")


async def test_an_apply_that_was_cut_off_is_finished_by_the_next_one(fleet: Fleet) -> None:
    class CutOff(Unsteady):
        async def before_transaction(self, number: int) -> None:
            if number == 3:
                raise Unavailable("no answer")

    units = [unit(f"u{number:03}.service") for number in range(200)]
    cut = Fleet(Registry(CutOff(fleet.registry.store)))
    assert (await refused(cut, *units))[0] == 503
    assert await fleet.registry.read(APPLIES) == {}
    answer = await apply(fleet, *units)
    assert list(await fleet.registry.read(APPLIES)) == [(answer["id"],)]
    assert {found.rollout for found in (await fleet.registry.units()).values()} == {answer["id"]}


async def test_what_changes_meanwhile_is_planned_again(fleet: Fleet) -> None:
    class Meddling(Unsteady):
        async def before_transaction(self, number: int) -> None:
            if number == 1:
                found = await fleet.unit("db.service")
                await fleet.registry.write_unit(msgspec.structs.replace(found, target=TargetState.LOADED), found)

    await fleet.add_unit("db.service", target="launched")
    await apply(Fleet(Registry(Meddling(fleet.registry.store))), unit("db.service", OTHER))
    found = await fleet.unit("db.service")
    assert (found.text, found.target) == (OTHER, TargetState.LOADED)
    assert (found.rollout,) in await fleet.registry.read(APPLIES)


async def test_endless_conflicts_end_with_an_error(fleet: Fleet) -> None:
    class Meddling(Unsteady):
        async def before_transaction(self, number: int) -> None:
            found = await fleet.unit("db.service")
            await fleet.registry.write_unit(msgspec.structs.replace(found, note=str(number)), found)

    await fleet.add_unit("db.service")
    status, message = await refused(Fleet(Registry(Meddling(fleet.registry.store))), unit("db.service", OTHER))
    assert status == 409
    assert "by other clients at the same time" in message


async def test_two_applies_of_a_set_at_once_lose_no_member(fleet: Fleet) -> None:
    class Meddling(Unsteady):
        async def before_transaction(self, number: int) -> None:
            if number == 1:
                await apply(fleet, unit("b.service"))

    await apply(Fleet(Registry(Meddling(fleet.registry.store))), unit("a.service"))
    assert await members(fleet) == ("a.service", "b.service")


async def test_the_quota_counts_for_all_units_together(fleet: Fleet) -> None:
    fleet.reconfigure(allowed_usage=Usage(2, 10**6))
    status, message = await refused(fleet, template("Instances=2"))
    assert (status, "max_units=2" in message) == (507, True)
    assert await fleet.registry.units() == {}


async def test_instances_follow_their_template_wherever_they_come_from(fleet: Fleet) -> None:
    await fleet.add_unit("web@1.service", target="launched")
    await fleet.add_unit("web@1.socket")
    await apply(fleet, template(text=OTHER))
    assert (await fleet.unit("web@1.service")).text == OTHER
    assert (await fleet.unit("web@1.socket")).text == SERVICE


async def test_an_apply_without_a_set_keeps_the_sets_as_they_are(fleet: Fleet) -> None:
    await apply(fleet, template("Instances=2"))
    answer = await apply(fleet, template("Instances=2", OTHER), set="")
    assert changes(answer) == dict.fromkeys(("web@.service", "web@1.service", "web@2.service"), "changed")
    assert (await fleet.unit("web@1.service")).set == "deploy"
    assert await members(fleet) == ("web@.service", "web@1.service", "web@2.service")


async def test_what_was_reverted_is_said_and_rolled_out_again_only_on_request(fleet: Fleet) -> None:
    await apply(fleet, unit("db.service"), unit("a.service"))
    changed = unit("db.service", OTHER)
    first = await apply(fleet, changed, unit("a.service"))
    former = (Content(SERVICE),)
    reverted = Rollout(first["id"], 9, phase=Phase.REVERTED, contents=former)
    await fleet.put(reverted, "db.service")
    revision = await fleet.registry.store.revision()
    assert await apply(fleet, changed, unit("a.service")) == {"unchanged": 2, "reverted": ["db.service"]}
    assert await fleet.registry.store.revision() == revision
    answer = await apply(fleet, changed, unit("a.service"), retry=True)
    assert [(each["name"], each["impact"], each["because"]) for each in answer["units"]] == [
        ("db.service", "restart", "ExecStart= changed")
    ]
    assert (await fleet.unit("db.service")).rollout == answer["id"]
    assert await apply(fleet, changed, unit("a.service"), retry=True) == {"unchanged": 2}
    assert [each["text"] for each in await versions(fleet, "db.service")] == [SERVICE, OTHER]


async def test_many_templates_are_read_at_once(fleet: Fleet) -> None:
    texts = [f"t{number}@.service" for number in range(applies.MOST_GROUPS_READ_SINGLY + 1)]
    await fleet.add_unit("t3@1.service")
    answer = await apply(fleet, *(unit(name, OTHER) for name in texts))
    assert changes(answer)["t3@1.service"] == "changed"
    assert await apply(fleet, *(unit(name, OTHER) for name in texts)) == {"unchanged": len(texts) + 1}


async def test_the_last_ten_versions_of_a_group_are_kept(fleet: Fleet) -> None:
    fleet.reconfigure(unix_now=lambda: 17.0)
    for number in range(12):
        await apply(fleet, unit("db.service", f"[Service]\nExecStart=/bin/{number}\n"), note=f"the {number}th")
    found = await versions(fleet, "db.service")
    assert [each["number"] for each in found] == list(range(3, 13))
    assert found[-1] == {
        "number": 12,
        "at": 17.0,
        "by": "ann",
        "note": "the 11th",
        "apply": (await fleet.unit("db.service")).rollout,
        "text": "[Service]\nExecStart=/bin/11\n",
    }
    items = await fleet.registry.store.range("/fleet.archive/versions/db.service/")
    assert len(items.items) == 10
    assert await versions(fleet, "no.service") == []


async def test_what_was_replaced_without_an_apply_is_a_version_too(fleet: Fleet) -> None:
    await fleet.add_unit("db.service")
    await apply(fleet, unit("db.service", OTHER))
    assert [(each["text"], each.get("note", "")) for each in await versions(fleet, "db.service")] == [
        (SERVICE, "replaced without an apply"),
        (OTHER, ""),
    ]


async def test_a_version_of_a_template_holds_what_instances_have_of_their_own(fleet: Fleet) -> None:
    own = {"name": "web@1.service", "dropins": [{"name": "a.conf", "text": "[Service]\nNice=1\n"}]}
    await apply(fleet, template("Instances=2"), own)
    (found,) = await versions(fleet, "web@.service")
    assert found["instances"] == [own]
    assert await versions(fleet, "web@1.service") == []


async def test_sets_are_listed(fleet: Fleet) -> None:
    await apply(fleet, unit("a.service"))
    response = await fleet.ask("GET /fleet/v2/sets")
    assert json.loads(response.body) == {"sets": [{"name": "deploy", "members": ["a.service"]}]}


async def test_scaling_makes_and_destroys_the_highest_instances(fleet: Fleet) -> None:
    await apply(fleet, template())
    assert changes(await scale(fleet, 3, plan=True)) == {f"web@{n}.service": "new" for n in (1, 2, 3)}
    assert changes(await scale(fleet, 3)) == {f"web@{n}.service": "new" for n in (1, 2, 3)}
    answer = await scale(fleet, 1)
    assert changes(answer) == {"web@2.service": "destroyed", "web@3.service": "destroyed"}
    assert sorted(await fleet.registry.units()) == ["web@.service", "web@1.service"]
    assert await members(fleet) == ("web@.service", "web@1.service")
    assert await scale(fleet, 1) == {}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"template": "web.service", "instances": 1}, 400, '"web.service" is no template'),
        ({"template": "web@1.service", "instances": 1}, 400, '"web@1.service" is no template'),
        ({"template": "web@.service", "instances": -1}, 400, "-1 instances cannot be"),
        ({"template": "web@.service", "instances": 10001}, 400, "10001 instances cannot be"),
        ({"template": "web@.service", "instances": 1}, 409, 'the cluster has no template "web@.service"'),
        ({"template": "web@.service", "instances": "1"}, 400, "unable to decode body"),
    ],
)
async def test_a_scale_that_cannot_be_is_refused(fleet: Fleet, body: Any, status: int, message: str) -> None:
    found = await fleet.refused("POST /fleet/v2/scale", body)
    assert (found[0], message in found[1]) == (status, True)


async def test_records_of_applies_go_when_no_unit_names_them(fleet: Fleet) -> None:
    puts = [fleet.registry.put(Apply("x", 1.0, ""), f"old{number}") for number in range(applies.MOST_APPLIES)]
    for start in range(0, len(puts), 100):
        await fleet.registry.store.transact([], puts[start : start + 100])
    kept = await apply(fleet, unit("a.service"), set="other")
    answer = await apply(fleet, unit("b.service"))
    assert sorted(await fleet.registry.read(APPLIES)) == sorted([(kept["id"],), (answer["id"],)])


async def test_five_hundred_unchanged_units_take_few_reads_and_no_write(fleet: Fleet) -> None:
    class Counting(Unsteady):
        reads = 0

        async def get_many(self, *arguments: Any, **options: Any) -> Any:
            self.reads += 1
            return await self._store.get_many(*arguments, **options)

        async def range(self, *arguments: Any, **options: Any) -> Any:
            self.reads += 1
            return await self._store.range(*arguments, **options)

    units = [unit(f"u{number}.service", SERVICE, x="[Service]\nNice=1\n") for number in range(500)]
    await apply(fleet, *units)
    store = Counting(fleet.registry.store)
    began = time.process_time()
    assert await apply(Fleet(Registry(store)), *units) == {"unchanged": 500}
    assert time.process_time() - began < 5.0
    assert store.transactions == 0
    assert store.reads <= 10  # sets, units and rollouts in four parts each, applies


@pytest.mark.parametrize(
    "body",
    [
        {"edit": True, "units": [unit("web@.service")]},
        {"edit": True, "generation": 3, "units": [unit("web@.service")], "set": "deploy"},
        {"edit": True, "generation": 3, "units": [unit("web@.service"), unit("db.service")]},
        {"edit": True, "generation": 3, "units": []},
    ],
)
async def test_an_edit_that_is_not_of_one_unit_is_refused(fleet: Fleet, body: Any) -> None:
    words = "edit is about one unit in no set, and names the generation that was edited"
    assert await fleet.refused("POST /fleet/v2/apply", body) == (400, words)


async def test_an_edit_of_an_older_generation_is_refused(fleet: Fleet) -> None:
    await apply(fleet, template("Instances=1"))
    generation = (await fleet.registry.units())["web@.service"].generation
    body = {"edit": True, "generation": generation, "units": [template(text=OTHER)]}
    assert (await fleet.ask("POST /fleet/v2/apply", body)).status == 200
    units = await fleet.registry.units()
    assert {found.text.split("=")[1].strip() for found in units.values()} == {"/bin/false"}
    words = 'unit "web@.service" was changed meanwhile: look at it and repeat what you want of it'
    again = body | {"units": [template(text=SERVICE)]}
    assert await fleet.refused("POST /fleet/v2/apply", again) == (409, words)
