"""Parameters of the queries for events, logs and states: one set of rules, in the same words."""

import pytest

from tests.api.conftest import Fleet

UNIT = "unit=web.service"
EVENTS, JOURNAL, STATUS = "/fleet/v2/events?follow=false", f"/fleet/v2/journal?{UNIT}", f"/fleet/v2/status?{UNIT}"


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("since=now", "since=now: write a Unix time in seconds"),
        ("since=-1", "since=-1: write a Unix time in seconds"),
        ("since=nan", "since=nan: write a Unix time in seconds"),
        ("since=1e5", "since=1e5: write a Unix time in seconds"),
        ("since=999999999999", "since=999999999999: write a Unix time in seconds"),
        ("since=1&since=1", "since is given 2 times: once is enough"),
        ("follow=false&follow=true", "follow is given"),
        ("unit=*&" + "&".join(f"unit=*{number}" for number in range(32)), "33 patterns of units: 32 can be asked"),
    ],
)
@pytest.mark.parametrize("path", [EVENTS, JOURNAL])
async def test_events_and_logs_refuse_the_same_in_the_same_words(fleet: Fleet, path: str, query: str, why: str) -> None:
    await fleet.add_unit("web.service")
    if path == JOURNAL and query.startswith("follow"):
        query = f"follow=false&{query}"
    status, message = await fleet.refused(f"GET {path}&{query}")
    assert (status, why in message) == (400, True), message


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("follow=maybe", "follow=maybe: write true or false"),
        ("previous=1", "previous=1: write true or false"),
        ("lines=-1", "lines=-1: write a whole number"),
        ("lines=1.5", "lines=1.5: write a whole number"),
        ("lines=1&lines=2", "lines is given 2 times: once is enough"),
        ("grep=a&grep=b", "grep is given 2 times: once is enough"),
        ("after=m1:s%3D1&after=m1:s%3D2", "after names machine m1 twice: once is enough"),
    ],
)
async def test_a_log_refuses_what_it_does_not_understand_and_what_contradicts_itself(
    fleet: Fleet, query: str, why: str
) -> None:
    await fleet.add_unit("web.service")
    assert await fleet.refused(f"GET {JOURNAL}&{query}") == (400, why)


@pytest.mark.parametrize("query", ["after=0&after=0", "latest=true&latest=true"])
async def test_events_refuse_what_is_given_twice(fleet: Fleet, query: str) -> None:
    status, message = await fleet.refused(f"GET {EVENTS}&{query}")
    assert (status, message) == (400, f"{query.partition('=')[0]} is given 2 times: once is enough")


@pytest.mark.parametrize("path", [EVENTS, JOURNAL, STATUS])
async def test_an_empty_value_counts_as_none(fleet: Fleet, path: str) -> None:
    await fleet.add_unit("web.service")
    empty = "unit=&machine=&since=&kind=&after=&lines=&grep=&previous=&latest="
    assert (await fleet.ask(f"GET {path}&{empty}")).status == 200
