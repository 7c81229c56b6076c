"""The page says of units, machines and events what fleetctl says of them."""

from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st

from fleetctl.event_lines import describe_event
from fleetctl.live.pane import Query, arrange
from fleetctl.live.rows import announced_by, machine_rows, render_age, unit_row
from fleetd.api import schema
from fleetd.model.event import EventKind
from fleetd.model.permission import Grant, Permission, Rights
from tests.browser.conftest import Visit

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long, pytest.mark.xdist_group("browser")]

MACHINES = [letter * 32 for letter in "abc"]
NAMES = st.sampled_from(["web@1.service", "web@2.service", "db.service", "a.b@x.timer", "old.service"])
ALLOCATIONS = st.builds(
    schema.AllocationReport,
    machine=st.sampled_from(MACHINES),
    address=st.sampled_from(["", "10.0.0.1"]),
    load=st.sampled_from(["loaded", "not-found", ""]),
    active=st.sampled_from(["active", "failed", "inactive", "activating", "reloading", "deactivating", ""]),
    sub=st.sampled_from(["running", "dead", ""]),
    completed=st.booleans(),
    superseded=st.booleans(),
    orphaned=st.booleans(),
    error=st.sampled_from(["", "no\nreason"]),
    refusal=st.sampled_from(["", "not here"]),
)
REPORTS = st.builds(
    schema.UnitReport,
    name=NAMES,
    target=st.sampled_from(["launched", "loaded", "inactive"]),
    generation=st.integers(1, 2),
    decided=st.integers(0, 2),
    is_global=st.booleans(),
    machine=st.sampled_from(["", *MACHINES]),
    cause=st.sampled_from([None, schema.Cause("completed"), schema.Cause("placed")]),
    allocations=st.lists(ALLOCATIONS, max_size=3).map(tuple),
    since=st.sampled_from([0.0, 5.0]),
)
WORDS = st.sampled_from(["", "web@1.service", "a" * 32])
EVENTS = st.builds(
    schema.Event,
    kind=st.sampled_from([*EventKind, "state", "gap", "later"]),
    unit=WORDS,
    machine=WORDS,
    former=WORDS,
    by=st.sampled_from(["", "ann"]),
    action=st.just("stop"),
    subject=WORDS,
    step=st.sampled_from(["", "stays", "paused", "drained"]),
    units=st.lists(WORDS, max_size=2).map(tuple),
    message=st.sampled_from(["", "it is so"]),
    why=st.sampled_from(["", "failed"]),
    active=st.sampled_from(["", "active"]),
    sub=st.just("running"),
    error=st.sampled_from(["", "no\nreason"]),
)
SERVICES = st.builds(
    schema.Service,
    service=st.sampled_from(["web", "web-metrics", "api"]),
    unit=NAMES,
    machine=st.sampled_from(MACHINES),
    address=st.just("10.0.0.1"),
    port=st.sampled_from([80, 443]),
    protocol=st.sampled_from(["tcp", "udp"]),
    failing=st.sampled_from(["", "", "", "down"]),
)
GRANTS = st.builds(Grant, st.sampled_from(list(Permission)), st.sampled_from(["*", "web-*", "web-[ab].service", "?b"]))
UNITS = ("*", "web-a.service", "web-c.service", "db", "web-")
QUERIES = ("", "web", "web@* !failed", "!active", "a.b@x?timer", "[a-w]*", "launched")


def draw_many(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """So many examples: all are judged in one call to the browser."""
    from hypothesis import HealthCheck, Phase, given, settings

    drawn: list[Any] = []

    @settings(max_examples=count, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def collect(example: Any) -> None:
        drawn.append(example)

    collect()
    return drawn


def as_json(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


async def call_each(visit: Visit, module: str, function: str, values: list[Any]) -> list[Any]:
    """What a function of the page returns for each of these values."""
    found = await visit.page.evaluate(
        "async ([module, name, values]) => values.map((await import(`/ui/${module}`))[name])",
        [module, function, [as_json(value) for value in values]],
    )
    return list(found)


async def test_a_unit_has_the_state_place_and_level_that_fleetctl_top_shows(visit: Visit) -> None:
    await visit.open()
    reports = draw_many(REPORTS, 500)
    for report, row in zip(reports, await call_each(visit, "units.js", "unitRow", reports), strict=True):
        expected = unit_row(report)
        _, state, place, *_ = expected.cells
        assert (row["state"], row["level"], row["template"]) == (state, int(expected.level), expected.template), report
        assert row["place"] == place, report


async def test_what_a_unit_announces_is_told_in_the_words_of_fleetctl_top(visit: Visit) -> None:
    await visit.open()
    services = draw_many(SERVICES, 200)
    found = await visit.page.evaluate(
        "async (all) => [...(await import('/ui/services.js')).announcedBy(all)]", as_json(services)
    )
    assert dict(found) == announced_by(services)


async def test_a_list_has_the_units_in_the_order_of_fleetctl_top(visit: Visit) -> None:
    await visit.open()
    reports = list({report.name + str(number): report for number, report in enumerate(draw_many(REPORTS, 60))}.values())
    named = [msgspec.structs.replace(report, name=f"u{number}{report.name}") for number, report in enumerate(reports)]
    rows = await call_each(visit, "units.js", "unitRow", named)
    for text in QUERIES:
        for is_grouped in (False, True):
            query = Query(text, sort=-1, is_grouped=is_grouped)
            expected = [row.key for row in arrange(map(unit_row, named), query)]
            asked = {"text": text, "sort": "level", "isGrouped": is_grouped}
            assert [row["key"] for row in await visit.call("query.js", "arrange", rows, asked)] == expected, text


async def test_a_machine_has_the_state_and_counts_that_fleetctl_top_shows(visit: Visit) -> None:
    await visit.open()
    reports = draw_many(REPORTS, 50)
    machines = [
        schema.Machine(MACHINES[0], "10.0.0.1", {"b": "1", "a": "2"}),
        schema.Machine(MACHINES[1], mode="parked", cordon=schema.Cordon("disk"), reboot="queued"),
        schema.Machine(MACHINES[2], drain=schema.Drain(), reboot_required="kernel"),
    ]
    rows = await visit.call("machines.js", "machineRows", as_json(machines), as_json(reports))
    for row, expected in zip(rows, machine_rows(machines, reports), strict=True):
        _, _, state, units, active, failed, metadata = expected.cells
        counts = (row["units"], row["active"], row["failed"])
        assert (row["state"], row["level"]) == (state, int(expected.level))
        assert counts == (int(units), int(active), int(failed))
        assert (row["metadata"] or "-") == metadata


async def test_an_event_is_told_in_the_words_of_fleetctl(visit: Visit) -> None:
    await visit.open()
    events = draw_many(EVENTS, 300)
    for event, text in zip(events, await call_each(visit, "words.js", "describeEvent", events), strict=True):
        assert " ".join(text.split()) == " ".join(describe_event(event)[1].split()), event


async def test_an_age_is_told_in_the_words_of_fleetctl(visit: Visit) -> None:
    await visit.open()
    ages = [-5, 0, 1, 59, 60, 61, 3599, 3600, 3601, 86399, 86400, 90061, 10**7]
    assert await call_each(visit, "words.js", "renderAge", ages) == [render_age(age) for age in ages]


async def test_what_is_offered_is_what_fleetd_allows(visit: Visit) -> None:
    await visit.open()
    asked = [
        (grants, permission, name)
        for grants in draw_many(st.lists(GRANTS, max_size=3), 40)
        for permission in Permission
        for name in UNITS
    ]
    offered = await visit.page.evaluate(
        "async (all) => { const { may } = await import('/ui/rights.js'); return all.map((each) => may(...each)); }",
        [[{"grants": as_json(grants)}, permission, name] for grants, permission, name in asked],
    )
    assert offered == [Rights(grants).allow_for(permission, name) for grants, permission, name in asked]
