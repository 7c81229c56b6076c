"""events and history, and the loop that follows events."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fleetctl.commands.events import show
from fleetctl.errors import ClientError
from fleetctl.event_lines import render_event
from fleetctl.event_stream import RESTORED, follow, list_and_follow
from fleetctl.wait import CLOCK, Clock
from fleetd.api.http import Response
from fleetd.api.schema import Event
from fleetd.model.event import ClusterEvent, EventKind, EventRecord, record_name
from fleetd.registry.records import EVENTS, KeySpace, encode
from fleetd.store.protocol import Put
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster

AT = 1_800_014_400.0
M1, M2 = "9678f7a7" * 4, "aaf2f899" * 4
A = Event("placed", "e.2", unit="a.service")
B = Event("placed", "e.3", unit="b.service")


class Lost(ClientError):
    may_pass = True


class Gone(ClientError):
    code = 410


class Streams:
    """A client with these streams, one a request; then it is interrupted. `asked` are the tokens of the requests."""

    def __init__(self, *streams: list[Event | ClientError]) -> None:
        self._streams = iter(streams)
        self.asked: list[str] = []

    def events(self, query: list[tuple[str, str]]) -> Iterator[Event]:
        self.asked.append(dict(query).get("after", ""))
        for event in next(self._streams, [KeyboardInterrupt()]):  # type: ignore[list-item]
            if isinstance(event, BaseException):
                raise event
            yield event


def read_all(client: Any, **options: Any) -> list[Event]:
    """What is followed until the streams are over."""
    found: list[Event] = []
    now = 0.0

    def sleep(pause_s: float) -> None:
        nonlocal now
        now += pause_s

    reset = CLOCK.set(Clock(lambda: now, sleep))
    try:
        with pytest.raises(KeyboardInterrupt):
            found.extend(event for event in _keep(found, follow(client, **options)))
    finally:
        CLOCK.reset(reset)
    return found


def _keep(found: list[Event], events: Iterator[Event]) -> Iterator[Event]:
    for event in events:
        found.append(event)
        yield from ()


def begin(token: str) -> Event:
    return Event("begin", token)


def test_after_a_lost_connection_it_goes_on_with_the_last_token() -> None:
    client = Streams([begin("e.1"), A, Event("mark", "e.9"), Lost("gone")], [Lost("no")], [begin("e.9"), B])
    assert read_all(client) == [begin("e.1"), A, B]
    assert client.asked == ["", "e.9", "e.9", "e.3"]


def test_a_transaction_of_which_a_part_has_come_comes_once() -> None:
    first = Event("placed", unit="a.service")
    client = Streams([begin("e.1"), first, Lost("gone")], [begin("e.1"), first, B])
    assert read_all(client) == [begin("e.1"), first, B]


def test_a_reader_that_is_behind_comes_again() -> None:
    client = Streams([begin("e.1"), A, Event("behind", "e.2")], [begin("e.2"), B])
    assert read_all(client) == [begin("e.1"), A, B]


def test_after_a_restore_it_begins_again_behind_a_gap() -> None:
    client = Streams([begin("e.1"), A, Event("end", "e.2")], [Gone("restored")], [begin("f.1"), B])
    assert read_all(client) == [begin("e.1"), A, Event("gap", detail=RESTORED), B]


def test_a_token_that_was_given_and_means_nothing_is_an_error() -> None:
    with pytest.raises(Gone):
        next(follow(Streams([Gone("restored")]), after="e.1"))  # type: ignore[arg-type]


def test_since_counts_only_until_a_token_of_an_event_is_known() -> None:
    client = Streams([begin("e.0"), Lost("gone")], [begin("e.0"), A, Lost("gone")])
    assert read_all(client, query=[("since", "5")]) == [begin("e.0"), A]
    assert client.asked == ["", "", "e.2"]


def test_a_list_is_read_once_the_stream_is_open_and_again_after_a_gap() -> None:
    done: list[Any] = []
    client = Streams([begin("e.1"), A, Event("gap", "e.5"), B])
    with pytest.raises(KeyboardInterrupt):
        done.extend(_keep(done, list_and_follow(client, lambda: done.append("list"))))  # type: ignore[arg-type]
    assert done == ["list", A, "list", B]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event("asked", at=AT, unit="a.service", by="ann", action="start"), "start of a.service was asked for by ann"),
        (Event("asked", at=AT, machine=M1, by="ann", action="drain"), "drain of machine 9678f7a7 was asked for by ann"),
        (Event("asked", at=AT, action="apply"), "apply was asked for"),
        (
            Event("placed", at=AT, unit="a.service", machine=M1, message="least units"),
            "a.service placed on 9678f7a7: least units",
        ),
        (Event("moved", at=AT, unit="a.service", machine=M2, former=M1), "a.service moved from 9678f7a7 to aaf2f899"),
        (Event("unplaced", at=AT, unit="a.service", former=M1), "a.service taken off 9678f7a7"),
        (Event("unplaced", at=AT, unit="a.service"), "a.service fits nowhere"),
        (
            Event("superseded", at=AT, unit="a.service", former=M1),
            "a.service placed elsewhere, and may still run on 9678f7a7",
        ),
        (
            Event("rollout", at=AT, subject="web@.service", step="changed", units=("web@1.service",)),
            "rollout of web@.service changed: web@1.service",
        ),
        (
            Event("rollout", at=AT, subject="web@.service", step="paused", why="failed"),
            "rollout of web@.service paused (failed)",
        ),
        (Event("drain", at=AT, machine=M1, step="drained"), "machine 9678f7a7 drained"),
        (
            Event("drain", at=AT, unit="a.service", machine=M1, step="stays"),
            "a.service stays on 9678f7a7, which is drained",
        ),
        (Event("reboot", at=AT, machine=M1, step="over"), "reboot of machine 9678f7a7 over"),
        (Event("lost", at=AT, machine=M1), "machine 9678f7a7 is lost"),
        (Event("later", at=AT, unit="a.service", machine=M1), "later a.service 9678f7a7"),
    ],
)
def test_an_event_is_one_line(event: Event, text: str) -> None:
    assert render_event(event) == f"2027-01-15 12:00:00 UTC  {text}"


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            Event(
                "state", unit="a.service", machine=M1, load="loaded", active="failed", sub="failed", error="exit\nlog"
            ),
            "a.service failed (failed), exit on 9678f7a7",
        ),
        (Event("state", unit="a.service", machine=M1), "a.service is not reported any more on 9678f7a7"),
        (Event("gap", detail="what"), "gap: what"),
    ],
)
def test_what_has_no_time_has_a_dash(event: Event, text: str) -> None:
    assert render_event(event) == f"-  {text}"


@pytest.fixture
def happened(cluster: ScriptedCluster) -> None:
    """Two events of units, one of a machine."""
    archive = KeySpace(KeySpace().archive_prefix)
    for number, event in enumerate(
        (
            ClusterEvent(EventKind.PLACED, unit="a.service", machine=M1),
            ClusterEvent(EventKind.MOVED, unit="b.service", machine=M2, former=M1),
            ClusterEvent(EventKind.LOST, machine=M1),
        )
    ):
        key = archive.key(EVENTS, record_name(time.time(), f"{number}"))
        cluster._write([Put(key, encode(EventRecord(AT, (event,))))])


@pytest.mark.usefixtures("happened")
def test_events_shows_what_has_happened_oldest_first(fleetctl: Fleetctl) -> None:
    found = fleetctl("events")
    assert (found.status, found.stderr) == (0, "")
    assert [line.partition("UTC  ")[2] for line in found.stdout.splitlines()] == [
        "a.service placed on 9678f7a7",
        "b.service moved from 9678f7a7 to aaf2f899",
        "machine 9678f7a7 is lost",
    ]
    lines = fleetctl("events", "--output=json", "--kind=lost", f"--machine={M1[:8]}").stdout.splitlines()
    assert [(event["kind"], event["machine"]) for event in map(json.loads, lines)] == [("lost", M1)]
    assert fleetctl("events", "--unit=b.*").stdout == fleetctl("history", "b.service").stdout != ""
    assert fleetctl("events", "--unit=b").stdout == fleetctl("history", "b").stdout == fleetctl("history", "b.*").stdout


@pytest.mark.usefixtures("happened")
def test_a_unit_of_which_nothing_is_known_is_said(fleetctl: Fleetctl) -> None:
    found = fleetctl("history", "eaten")
    assert (found.status, found.stdout, found.stderr) == (0, "", "Nothing is known of unit eaten.service.\n")


def test_people_get_a_state_that_reads_as_before_once_and_scripts_each(capsys: pytest.CaptureFixture[str]) -> None:
    active = Event("state", unit="a.service", machine=M1, load="loaded", active="active", sub="running")
    dead = Event("state", unit="a.service", machine=M1, load="loaded", active="inactive", sub="dead")
    states = [active, active, dead, dead, active]
    show([*states, Event("mark")], "table")
    assert [line.partition(" on ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "-  a.service active (running)",
        "-  a.service inactive (dead)",
        "-  a.service active (running)",
    ]
    show([*states, Event("mark")], "json")
    assert len(capsys.readouterr().out.splitlines()) == len(states)


def test_a_wrong_kind_is_refused_in_words(fleetctl: Fleetctl) -> None:
    found = fleetctl("events", "--kind=eaten")
    assert found.status != 0
    assert "'eaten' is not one of 'asked', 'placed', 'moved'" in found.stderr


@pytest.mark.parametrize(
    ("lines", "why"),
    [(b'{"kind":"begin"}\n{"kind":"end","detail":"no store"}\n', "no store"), (b"", "the connection was lost")],
)
def test_what_does_not_come_to_its_end_is_an_error(
    fleetctl: Fleetctl, cluster: ScriptedCluster, lines: bytes, why: str
) -> None:
    cluster.intercept = lambda method, path: Response(200, (), lines)
    found = fleetctl("events")
    assert (found.status, found.stdout) == (1, "")
    assert found.stderr.startswith(f"Error retrieving the events: {why}")
