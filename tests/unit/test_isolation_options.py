"""IsolationSec=, IsolationStopSec= and Lock=: what a unit says of itself, and what is refused beside them."""

import pytest

from fleetd.model.admission import refuse_content
from fleetd.model.content import Content
from fleetd.model.content_change import Impact, impact
from fleetd.model.isolation import NOT_ISOLATED, IsolationOptions, UnitLock
from fleetd.model.isolation_options import isolation_options_of
from fleetd.model.lock import MOST_SLOTS, refuse_lock_name
from fleetd.model.requirements import placed_requirements, requirements_of
from fleetd.model.unitfile import parse_unit_file

ISOLATED = "[X-Fleet]\nIsolationSec=30s\n"


def refuse(text: str, name: str = "db.service") -> str:
    return refuse_content(parse_unit_file(text), name)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("", NOT_ISOLATED),
        ("[X-Fleet]\nIsolationSec=\n", NOT_ISOLATED),
        (ISOLATED, IsolationOptions(is_single=True)),
        ("[X-Fleet]\nIsolationSec=20s\nIsolationSec=1min\n", IsolationOptions(60.0, is_single=True)),
        ("[X-Fleet]\nIsolationSec=20s\nIsolationStopSec=3\n", IsolationOptions(20.0, 3.0, is_single=True)),
        ("[X-Fleet]\nLock=db\n", IsolationOptions(lock=UnitLock("db"))),
        ("[X-Fleet]\nLock=%p-%i 3\n", IsolationOptions(lock=UnitLock("db-1", 3))),
        ("[X-Fleet]\nLock=db\nIsolationSec=5\n", IsolationOptions(5.0, is_single=True, lock=UnitLock("db"))),
    ],
)
def test_values_are_read(text: str, asked: IsolationOptions) -> None:
    assert isolation_options_of(Content(text), "db@1.service") == asked
    assert refuse(text, "db@1.service") == ""
    assert refuse(text, "db@.service") == ""
    assert requirements_of(Content(text), "db@1.service").isolation == asked


def test_the_sum_is_what_others_wait() -> None:
    asked = isolation_options_of(Content(ISOLATED), "db.service")
    assert (asked.bound_s, asked.hold_s) == (40.0, 45.0)
    assert asked.sum_in_words == "45s: IsolationSec=30s, IsolationStopSec=10s and 5s"


def test_what_cannot_be_parsed_asks_for_nothing() -> None:
    assert isolation_options_of(Content("[X-Fleet]\nIsolationSec=soon\n"), "db.service") is NOT_ISOLATED
    assert isolation_options_of(Content("[Unit]\nDescription=Lock\n"), "db.service") is NOT_ISOLATED


def test_units_without_the_options_require_what_they_did() -> None:
    content = Content("[X-Fleet]\nMachineID=abc\n")
    assert requirements_of(content, "db.service").isolation is NOT_ISOLATED
    assert placed_requirements(Content(ISOLATED), "db@.service").isolation is NOT_ISOLATED


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (
            "[X-Fleet]\nIsolationSec=soon\n",
            "IsolationSec: 'soon' is no time span; write one like 90s, 5min or 1h 30min",
        ),
        ("[X-Fleet]\nIsolationSec=1s\n", "IsolationSec=1s has to be from 3 to 120 seconds"),
        ("[X-Fleet]\nIsolationSec=infinity\n", "IsolationSec=infinity has to be from 3 to 120 seconds"),
        ("[X-Fleet]\nLock=db\nIsolationStopSec=5min\n", "IsolationStopSec=5min has to be from 1 to 60 seconds"),
        (
            "[X-Fleet]\nIsolationStopSec=5\n",
            "IsolationStopSec has no effect without IsolationSec or Lock: add one of them",
        ),
        ("[X-Fleet]\nLock=a b c\n", "Lock=a b c has 3 words: write Lock=NAME, or Lock=NAME SLOTS"),
        ("[X-Fleet]\nLock=db two\n", 'Lock=db two: "two" is no number of slots; write one such as 2'),
        ("[X-Fleet]\nLock=db 0\n", f"Lock=db 0: 0 slots: a lock has from 1 to {MOST_SLOTS}"),
        (
            "[X-Fleet]\nLock=a/b\n",
            'Lock=a/b: "a/b" is no name of a lock: it has to hold letters, digits and "_.@:-" only, to begin with a '
            "letter, a digit or _, and to have at most 128 characters",
        ),
        (
            f"[Service]\nKillMode=process\n{ISOLATED}",
            "IsolationSec cannot be used with KillMode=process, which leaves processes running when the unit stops: "
            "write control-group or mixed",
        ),
        (
            "[Service]\nKillMode=none\n[X-Fleet]\nLock=db\n",
            "Lock cannot be used with KillMode=none, which leaves processes running when the unit stops: write "
            "control-group or mixed",
        ),
        (
            f"[Service]\nSendSIGKILL=off\n{ISOLATED}",
            "IsolationSec cannot be used with SendSIGKILL=no, which leaves processes running when the unit stops: "
            "remove it",
        ),
        (  # systemd passes over what it does not know, and goes by the value before
            f"[Service]\nKillMode=process\nKillMode=MIXED\n{ISOLATED}",
            "IsolationSec cannot be used with KillMode=process, which leaves processes running when the unit stops: "
            "write control-group or mixed",
        ),
        (
            f"[Service]\nSendSIGKILL=No\nSendSIGKILL=\nSendSIGKILL=maybe\n{ISOLATED}",
            "IsolationSec cannot be used with SendSIGKILL=no, which leaves processes running when the unit stops: "
            "remove it",
        ),
        (
            f"[Service]\nFinalKillSignal=CONT\nFinalKillSignal=\n{ISOLATED}",
            "IsolationSec cannot be used with FinalKillSignal=CONT, which leaves processes running when the unit "
            "stops: remove it",
        ),
        (
            f"[Service]\nExecStart=/usr/bin/podman run --cgroups=split --cgroups enabled x\n{ISOLATED}",
            "IsolationSec cannot be used with --cgroups=enabled of podman (CgroupsMode=), which leaves processes "
            "running when the unit stops: remove it",
        ),
        (
            f"{ISOLATED}Global=true\n",
            "IsolationSec cannot be used with Global, which runs the unit on each machine: with Lock=NAME it runs on "
            "one of them at a time",
        ),
        (
            f"{ISOLATED}Handover=start-first\n",
            "IsolationSec cannot be used with Handover=start-first, which runs two at a time: write stop-first",
        ),
    ],
)
def test_what_cannot_be_carried_out_is_refused(text: str, refusal: str) -> None:
    assert refuse(text) == refusal


@pytest.mark.parametrize("suffix", ["socket", "timer", "path", "mount"])
def test_only_services_are_isolated(suffix: str) -> None:
    refusal = f"IsolationSec is for services, and this is a {suffix}: put it into the service that it starts"
    assert refuse(ISOLATED, f"db.{suffix}") == refusal


def test_what_goes_well_with_them() -> None:
    podman = "ExecStart=/usr/bin/podman run --cgroups=split x"
    service = f"[Service]\n{podman}\nKillMode=mixed\nSendSIGKILL=yes\nFinalKillSignal=SIGKILL\n"
    assert refuse(f"{service}{ISOLATED}FailoverDelay=1h\nAnnounce=db 5432\n") == ""
    assert refuse("[Service]\nKillMode=process\nKillMode=\n[X-Fleet]\nLock=db 2\nGlobal=true\n") == ""
    assert refuse("[Service]\nKillMode=process\n") == ""


def test_another_lock_takes_a_restart_and_another_bound_does_not() -> None:
    one, other = Content("[X-Fleet]\nLock=a\n"), Content("[X-Fleet]\nLock=b\n")
    assert impact(one, other) == (Impact.RESTART, "Lock= changed")
    assert impact(Content(""), Content(ISOLATED))[0] is Impact.NONE


OUTAGE = "an outage of the store for 30s stops it everywhere"
SUM = "45s: IsolationSec=30s, IsolationStopSec=10s and 5s"


@pytest.mark.parametrize(
    ("text", "described"),
    [
        ("", ""),
        (ISOLATED, f"starts elsewhere only after its machine was gone for {SUM}; {OUTAGE}"),
        (
            "[X-Fleet]\nLock=db\n",
            f"runs while it holds the lock db, which others get if it is not renewed for {SUM}; {OUTAGE}",
        ),
        (
            f"{ISOLATED}Lock=db 3\n",
            f"starts elsewhere only after its machine was gone for {SUM}; runs while it holds the lock db, as one of "
            f"3, which others get if it is not renewed for 45s; {OUTAGE}",
        ),
    ],
)
def test_what_it_means_is_said_with_the_sum(text: str, described: str) -> None:
    assert isolation_options_of(Content(text), "db.service").describe() == described


def test_a_lock_without_a_name_is_refused() -> None:
    assert refuse("[X-Fleet]\nLock=%i\n") == f"Lock=: {refuse_lock_name('')}"
    assert isolation_options_of(Content("[X-Fleet]\nLock=%i\n"), "db.service") is NOT_ISOLATED
