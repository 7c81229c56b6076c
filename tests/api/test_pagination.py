"""Pages: where a listing is cut, and which tokens are valid while units come and go."""

import asyncio
import json
from typing import Any, cast
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetd.api.http import Request
from fleetd.api.pagination import MAX_LIMIT, render_token
from fleetd.api.v1.states import States
from fleetd.model.machine import Machine, MachineSettings
from fleetd.model.placement import Decision
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.registry import records
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import MAX_OPERATIONS, Delete, Put
from tests.api.conftest import Fleet
from tests.examples import examples

UNITS = "/fleet/v1/units"
STATE = "/fleet/v1/state"
MACHINES = "/fleet/v1/machines"
KINDS = {UNITS: "units", STATE: "states", MACHINES: "machines"}
NAMES = {
    UNITS: lambda unit: unit["name"],
    STATE: lambda state: f"{state['name']}/{state['machineID']}",
    MACHINES: lambda machine: machine["id"],
}
RUNNING = UnitState("loaded", "active", "running", "ab" * 20, TargetState.LAUNCHED, 7)


async def page(fleet: Any, path: str, token: str = "", query: str = "") -> tuple[list[str], str]:
    """The names on a page (for states with their machines), and the token of the next one."""
    asked = "&".join([f"nextPageToken={quote(token)}"] * bool(token) + [query] * bool(query))
    response = await fleet.ask(f"GET {path}?{asked}")
    assert response.status == 200, response.body
    shown = json.loads(response.body)
    items = shown.get(KINDS[path], [])
    return [NAMES[path](item) for item in items], shown.get("nextPageToken", "")


async def pages(fleet: Any, path: str, query: str = "") -> list[list[str]]:
    names, token = await page(fleet, path, "", query)
    found = [names]
    while token:
        names, token = await page(fleet, path, token, query)
        found.append(names)
    return found


async def fill(fleet: Any, count: int) -> None:
    for number in range(count):
        await fleet.add_unit(f"u{number}.service")
        await fleet.put(RUNNING, "m0", f"u{number}.service")
        await fleet.put(Machine(f"m{number}"), f"m{number}")


class Counting:
    """A store that counts the records that are read."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.read = 0

    def __getattr__(self, name: str) -> Any:
        async def ask(*arguments: Any, **options: Any) -> Any:
            answer = await getattr(self._store, name)(*arguments, **options)
            self.read += len(getattr(answer, "items", ()))
            return answer

        return ask


def count_reads(fleet: Any) -> Counting:
    """Reset the count."""
    fleet.registry.store = Counting(fleet.registry.store)
    return cast(Counting, fleet.registry.store)


@pytest.mark.covers("4.3.1", "4.3.4", "4.4.1", "5.3.13", "10.6.9")
@pytest.mark.parametrize(("count", "sizes"), [(0, [0]), (1, [1]), (2, [2]), (3, [2, 1]), (4, [2, 2])])
async def test_a_listing_is_cut_into_pages_without_an_empty_last_one(fleet: Any, count: int, sizes: list[int]) -> None:
    fleet.reconfigure(token_limit=2)
    await fill(fleet, count)
    for path in KINDS:
        found = await pages(fleet, path)
        assert [len(names) for names in found] == sizes
        every = [name for names in found for name in names]
        assert every == sorted(every)
        assert len(set(every)) == count


async def test_a_client_may_ask_for_larger_pages_up_to_a_limit(fleet: Any) -> None:
    fleet.reconfigure(token_limit=2)
    await fill(fleet, 5)
    for path in KINDS:
        assert [len(names) for names in await pages(fleet, path, "limit=3")] == [3, 2]
        assert [len(names) for names in await pages(fleet, path, "limit=1")] == [1] * 5
        for enough in ("5", "9999", "123456789"):
            assert [len(names) for names in await pages(fleet, path, f"limit={enough}")] == [5]
    assert MAX_LIMIT == 10_000


@pytest.mark.covers("10.6.10")
async def test_a_limit_beyond_the_maximum_is_lowered_to_it(fleet: Any) -> None:
    puts = [Put(f"/fleet/machines/{number:05}", b'{"id":"%05d"}' % number) for number in range(MAX_LIMIT + 1)]
    for start in range(0, len(puts), MAX_OPERATIONS):
        await fleet.registry.store.transact([], puts[start : start + MAX_OPERATIONS])
    first, token = await page(fleet, MACHINES, query=f"limit={MAX_LIMIT + 1}")
    assert len(first) == MAX_LIMIT
    assert await page(fleet, MACHINES, token, "limit=50000") == ([f"{MAX_LIMIT:05}"], "")


@pytest.mark.parametrize("limit", ["limit=0", "limit=", "limit=-1", "limit=1e3", "limit=x", "limit=2&limit=2"])
async def test_an_invalid_limit_is_refused(fleet: Any, limit: str) -> None:
    for path in KINDS:
        status, said = await fleet.refused(f"GET {path}?{limit}")
        assert (status, said) == (
            400,
            "limit must be one integer from 1; more than 10000 counts as 10000",
        )


async def test_every_page_has_all_records_of_its_entries(fleet: Any) -> None:
    count = MAX_OPERATIONS + 2
    fleet.reconfigure(token_limit=count)
    for number in range(count):
        await fleet.add_unit(f"u{number:03}.service", target="launched")
        await fleet.put(Decision(f"u{number:03}.service", 1, machine=f"m{number:03}"), f"u{number:03}.service")
        await fleet.put(RUNNING, f"m{number:03}", f"u{number:03}.service")
        await fleet.put(Machine(f"m{number:03}"), f"m{number:03}")
        await fleet.put(MachineSettings({"n": str(number)}), f"m{number:03}")
    for limit in (1, MAX_OPERATIONS, MAX_OPERATIONS + 1, count):
        units = json.loads((await fleet.ask(f"GET {UNITS}?limit={limit}")).body)["units"]
        assert [(unit["machineID"], unit["currentState"]) for unit in units] == [
            (f"m{number:03}", "launched") for number in range(limit)
        ]
        machines = json.loads((await fleet.ask(f"GET {MACHINES}?limit={limit}")).body)["machines"]
        assert [machine["metadata"] for machine in machines] == [{"n": str(number)} for number in range(limit)]


@pytest.mark.covers("H.2")
async def test_an_unreadable_record_does_not_end_a_listing(fleet: Any) -> None:
    for name in ("a", "c", "e"):
        await fleet.add_unit(f"{name}.service")
    for name in ("b", "d", "f"):
        await fleet.registry.store.transact([], [Put(f"/fleet/units/{name}.service", b"junk")])
    found = [name for names in await pages(fleet, UNITS, "limit=1") for name in names]
    assert found == ["a.service", "c.service", "e.service"]


@pytest.mark.covers("4.3.5", "4.5.1")
async def test_filters_of_states_apply_to_every_page(fleet: Any) -> None:
    for machine in ("m1", "m2", "m3"):
        for unit in ("a.service", "b.service", "b.servicf"):
            await fleet.put(RUNNING, machine, unit)
    assert await pages(fleet, STATE, "limit=2&unitName=b.service") == [
        ["b.service/m1", "b.service/m2"],
        ["b.service/m3"],
    ]
    assert await pages(fleet, STATE, "limit=2&machineID=m2") == [["a.service/m2", "b.service/m2"], ["b.servicf/m2"]]
    assert await pages(fleet, STATE, "machineID=m") == [[]]


# CoreOS fleet's tokens


@pytest.mark.covers("4.3.2", "4.3.3")
async def test_coreos_fleets_tokens_are_accepted(fleet: Any) -> None:
    fleet.reconfigure(token_limit=2)
    await fill(fleet, 5)
    for path in KINDS:
        every = [name for names in await pages(fleet, path) for name in names]
        names, token = await page(fleet, path, "AgACAA==")
        assert names == every[2:4]
        assert await page(fleet, path, token) == (every[4:], "")
        assert await page(fleet, path, "AgABAA==") == await page(fleet, path)


@pytest.mark.covers("4.3.3")
async def test_a_page_beyond_the_end_is_empty(fleet: Any) -> None:
    await fill(fleet, 1)
    for path in KINDS:
        for token in ("ZAACAA%3D%3D", "ZAD__w%3D%3D"):
            assert (await fleet.ask(f"GET {path}?nextPageToken={token}")).body == b"{}"


@pytest.mark.covers("4.3.6")
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("nextPageToken=ZAACAA==&nextPageToken=ZAACAA==", "too many values for page token"),
        ("nextPageToken=AgACAA==", "token limit must be 100"),
        ("nextPageToken=ZAAAAA==", "token page must be greater than zero"),
        ("nextPageToken=", '"" is not a page token of this server: omit nextPageToken to begin with the first page'),
        ("nextPageToken=ZAA=", '"ZAA=" is not a page token of this server'),
        ("nextPageToken=ZAACAAAA", '"ZAACAAAA" is not a page token of this server'),
        ("nextPageToken=ZAACAA", '"ZAACAA" is not a page token of this server'),
        ("nextPageToken=ZAACAB==", '"ZAACAB==" is not a page token of this server'),
        ("nextPageToken=*", '"*" is not a page token of this server'),
        ("nextPageToken=é", '"é" is not a page token of this server'),
        (f"nextPageToken={render_token(0, 'a')}", "is not a page token of this server"),  # no revision
        (f"nextPageToken={render_token(1, '')}", "is not a page token of this server"),  # no key
        ("nextPageToken=AgEAAAAAAAAAYQ==", "is not a page token of this server"),  # another format
        ("nextPageToken=AQEAAAAAAAAA_w==", "is not a page token of this server"),  # a key that is not text
        (
            f"nextPageToken={render_token(1000, 'a')}",
            "the store has been restored since this page token was issued: omit nextPageToken to begin with",
        ),
    ],
)
async def test_an_invalid_page_token_is_refused(fleet: Any, query: str, message: str) -> None:
    for path in KINDS:
        status, said = await fleet.refused(f"GET {path}?{query}")
        assert status == 400
        assert message in said


# Changes between pages

LIFE = st.sampled_from(["stays", "goes", "comes", "returns"])
NAME = st.text("ab@.-1", max_size=4).map("{}.s".format)


@pytest.mark.covers("4.3.2")
@settings(max_examples=examples(60))
@given(
    lives=st.dictionaries(NAME, LIFE, max_size=14),
    limit=st.integers(1, 5),
    when=st.integers(0, 3),
)
async def test_no_unit_is_repeated_or_lost_while_others_come_and_go(
    lives: dict[str, str], limit: int, when: int
) -> None:
    store = EmbeddedStore(":memory:", offload=inline)
    registry = Registry(store)
    fleet = Fleet(registry, token_limit=limit)

    async def appear(name: str) -> None:
        for record, names in ((Unit(name, ""), (name,)), (RUNNING, ("m", name)), (Machine(name), (name,))):
            await store.transact([], [registry.put(record, *names)])

    async def vanish(name: str) -> None:
        for kind, names in ((records.UNITS, (name,)), (records.STATES, ("m", name)), (records.MACHINES, (name,))):
            await store.transact([], [Delete(registry.key(kind, *names))])

    try:
        for path in KINDS:
            for name, life in lives.items():
                await (vanish if life == "comes" else appear)(name)
            seen: list[str] = []
            token, number = "", 0
            while token or number == 0:
                if number == when:
                    for name, life in lives.items():
                        if life in ("goes", "returns"):
                            await vanish(name)
                        if life in ("comes", "returns"):
                            await appear(name)
                names, token = await page(fleet, path, token)
                seen += names
                number += 1
            shown = [name.removesuffix("/m") for name in seen]
            assert shown == sorted(set(shown))
            assert {name for name, life in lives.items() if life == "stays"} <= set(shown)
    finally:
        await store.close()


# The cost of a page


@pytest.mark.covers("10.6.10", "P.3")
async def test_a_page_of_ten_thousand_units_costs_one_page(fleet: Any) -> None:
    unit = Unit("u.service", "[Service]\nExecStart=/bin/true\n", TargetState.LAUNCHED)
    puts = [fleet.registry.put(unit, f"u{number:05}.service") for number in range(10_000)]
    for start in range(0, len(puts), MAX_OPERATIONS):
        await fleet.registry.store.transact([], puts[start : start + MAX_OPERATIONS])
    store = count_reads(fleet)
    _, token = await page(fleet, UNITS)
    await page(fleet, UNITS, token)
    assert store.read == 2 * 101


async def test_only_the_first_page_of_states_reads_them_all(fleet: Any) -> None:
    await fill(fleet, 9)
    store = count_reads(fleet)
    assert sorted(name for names in await pages(fleet, STATE, "limit=2") for name in names) == [
        f"u{number}.service/m0" for number in range(9)
    ]
    assert store.read == 9


async def test_a_first_page_of_states_is_read_anew(fleet: Any) -> None:
    await fill(fleet, 3)
    await page(fleet, STATE, query="limit=1")
    await fleet.put(RUNNING, "m0", "a.service")
    assert (await page(fleet, STATE, query="limit=1"))[0] == ["a.service/m0"]


async def test_a_listing_begun_by_another_fleetd_continues_with_present_states(fleet: Any) -> None:
    await fill(fleet, 3)
    other = Fleet(fleet.registry)
    await page(fleet, STATE, query="limit=1")
    await fleet.put(RUNNING, "m0", "u3.service")
    _, token = await page(other, STATE, query="limit=2")
    assert await page(fleet, STATE, token, "limit=2") == (["u2.service/m0", "u3.service/m0"], "")


async def test_a_listing_of_states_is_kept_briefly(fleet: Any) -> None:
    await fill(fleet, 3)
    states = States(fleet.registry, token_limit=1, held_s=0.01)
    first = json.loads((await states.get_all(Request("GET", STATE), "")).body)
    store = count_reads(fleet)
    await asyncio.sleep(0.05)
    await states.get_all(Request("GET", STATE, (("nextPageToken", first["nextPageToken"]),)), "")
    assert store.read == 3


@pytest.mark.parametrize(
    ("path", "cost"),
    [(f"{STATE}/u1.service", 3), (f"{STATE}?unitName=u1.service", 2), ("/fleet/v2/units?name=u1.service", 3)],
)
async def test_one_units_report_reads_that_unit_and_the_machines(fleet: Any, path: str, cost: int) -> None:
    for number in range(9):
        await fleet.add_unit(f"u{number}.service")
        await fleet.put(RUNNING, "m", f"u{number}.service")
    store = count_reads(fleet)
    response = await fleet.ask(f"GET {path}")
    assert b"u1.service" in response.body
    assert store.read == cost
