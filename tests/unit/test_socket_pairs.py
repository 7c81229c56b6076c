"""A socket that is restarted while its service runs, which systemd refuses."""

from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from fleetd.model.content import Content
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.reconciler.actions import Action, LedgerEntry, Restart, Restarting, Start, Stop
from fleetd.reconciler.machine_plan import plan_machine
from fleetd.reconciler.observed import Desired, Observed, StopProgress
from fleetd.reconciler.socket_pairs import find_service, with_pairs
from tests.unit.cluster_builder import LAUNCHED, LOADED

SOCKET, SERVICE = "talk.socket", "talk.service"
OLD, NEW = Content("[Socket]\nListenStream=1\n"), Content("[Socket]\nListenStream=2\n")
BEFORE, AFTER = Content("[Service]\nExecStart=/bin/old\n"), Content("[Service]\nExecStart=/bin/new\n")
DUE = Restarting(6, LAUNCHED)


def placed(name: str, content: Content, target: TargetState = LAUNCHED, generation: int = 5) -> Placement:
    return Placement("m1", name, content.text, target, generation)


def seen(content: Content, active: str = "active", target: TargetState = LAUNCHED, **more: object) -> Observed:
    entry = more.pop("entry", LedgerEntry(5, target, content.hash))
    return Observed(content.hash, "loaded", active, entry=entry, content=content, **more)


def plan(socket: Observed, service: Observed | None, *, changed: Content = AFTER, **more: TargetState) -> list[Action]:
    """The plan for a socket with new content, and for its service, which has the content `changed`."""
    target = more.get("target", LAUNCHED)
    placements = {SOCKET: placed(SOCKET, NEW, generation=6)}
    observed: Mapping[str, Observed] = {SOCKET: socket}
    if service is not None:
        generation = 5 if changed == BEFORE else 6
        placements[SERVICE] = placed(SERVICE, changed, target, generation)
        observed = {**observed, SERVICE: service}
    return list(plan_machine(Desired(placements), observed))


def kinds(actions: list[Action]) -> list[str]:
    return [f"{type(action).__name__} {action.unit}" for action in actions]


def test_a_socket_without_a_service_that_runs_is_restarted() -> None:
    for service in (None, seen(BEFORE, "inactive")):
        assert "Restart talk.socket" in kinds(plan(seen(OLD), service, changed=BEFORE))


@pytest.mark.parametrize("changed", [BEFORE, AFTER])
def test_both_are_stopped_and_then_started(changed: Content) -> None:
    first = plan(seen(OLD), seen(BEFORE), changed=changed)
    assert sorted(kinds(first)) == ["Stop talk.service", "Stop talk.socket"]
    entries = {action.unit: action.entry for action in first if isinstance(action, Stop)}
    assert all(entry.restarting == replace(DUE, generation=entry.restarting.generation) for entry in entries.values())
    socket = seen(OLD, "inactive", entry=entries[SOCKET])
    for service in (seen(BEFORE, "deactivating"), seen(BEFORE, job=True, stop=StopProgress.UNDER_WAY)):
        waiting = plan(socket, replace(service, entry=entries[SERVICE]), changed=changed)
        assert not [action for action in waiting if isinstance(action, Start | Restart | Stop)]
    again = plan(socket, seen(BEFORE, entry=entries[SERVICE]), changed=changed)
    assert "Stop talk.service" in kinds(again), "a connection came before the socket had stopped"
    at_rest = plan(socket, seen(BEFORE, "inactive", entry=entries[SERVICE]), changed=changed)
    assert kinds(at_rest)[-2:] == ["Start talk.socket", "Start talk.service"]


def test_a_service_that_is_only_loaded_is_left_to_its_socket() -> None:
    service = seen(BEFORE, target=LOADED)
    stops = plan(seen(OLD), service, changed=BEFORE, target=LOADED)
    assert [action.entry is None for action in stops if action.unit == SERVICE] == [True]
    socket = seen(OLD, "inactive", entry=LedgerEntry(5, LAUNCHED, OLD.hash, restarting=DUE))
    rest = plan(socket, replace(service, active="inactive"), changed=BEFORE, target=LOADED)
    assert kinds(rest) == ["Write talk.socket", "Start talk.socket"]


def test_a_socket_that_is_started_for_the_first_time_is_refused_by_systemd() -> None:
    assert "Start talk.socket" in kinds(plan(Observed(), seen(BEFORE), changed=BEFORE))
    stopped = seen(OLD, "inactive", entry=LedgerEntry(5, LAUNCHED, OLD.hash))
    assert "Start talk.socket" in kinds(plan(stopped, seen(BEFORE), changed=BEFORE))


@pytest.mark.parametrize(
    ("name", "text", "service"),
    [
        ("a.socket", "[Socket]\nListenStream=1\n", "a.service"),
        ("a.socket", "[Socket]\nService=b.service\n", "b.service"),
        ("a@1.socket", "[Socket]\nService=b@%i.service\n", "b@1.service"),
        ("a@1.socket", "[Socket]\nAccept=no\n", "a@1.service"),
        ("a.socket", "[Socket]\nAccept=yes\n", ""),
        ("a.socket", "[Socket", ""),
        ("a.service", "[Service]\nExecStart=/bin/a\n", ""),
    ],
)
def test_the_service_of_a_socket(name: str, text: str, service: str) -> None:
    assert find_service(Content(text), name) == service


def test_a_socket_and_its_service_are_planned_together() -> None:
    placements = {SOCKET: placed(SOCKET, NEW), SERVICE: placed(SERVICE, AFTER), "a.socket": placed("a.socket", NEW)}
    entries = {SOCKET: LedgerEntry(5, LAUNCHED, OLD.hash)}
    assert with_pairs([SOCKET], placements, entries.get) == [SOCKET, SERVICE]
    assert with_pairs([SERVICE], placements, entries.get) == [SERVICE]
    assert with_pairs(["a.socket"], placements, entries.get) == ["a.socket"]
    entries[SOCKET] = replace(entries[SOCKET], restarting=DUE)
    assert with_pairs([SERVICE], placements, entries.get) == [SERVICE, SOCKET]
    assert with_pairs(["b.service"], placements, entries.get) == ["b.service"]
