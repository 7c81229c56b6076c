"""Liveness: which absent machines count as dead. An expired lease alone does not make a machine dead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.scheduler.machine_loss import Absence, HeartbeatHistory, judge_absences, record_absences

TTL_S, INTERVAL_S = 10.0, 3.0
ALL_ANSWERED = HeartbeatHistory(well_since_s=0.0, last_s=99.0)


def absence(machine="m1", since_s=100.0, isolated=True, store_healthy=True):
    return Absence(machine, since_s, isolated, store_healthy)


def verdict(absences, now_s, beats=None):
    """The verdict, by default of a leader whose heartbeats are all answered."""
    beats = beats or HeartbeatHistory(0.0, now_s)
    return judge_absences(absences, beats, now_s=now_s, ttl_s=TTL_S, interval_s=INTERVAL_S)


def record(known, absent, now_s=100.0, store_healthy=True, disturbed_s=None):
    return record_absences(known, absent, now_s=now_s, store_healthy=store_healthy, disturbed_s=disturbed_s)


# The leader's own heartbeats.


def test_a_new_history_covers_no_time_before_it():
    history = HeartbeatHistory.begin(5.0)
    assert not history.covers(TTL_S, 5.0, INTERVAL_S)
    assert history.covers(0.0, 5.0, INTERVAL_S)


def test_heartbeats_answered_in_time_cover_the_time_since_the_first():
    history = HeartbeatHistory.begin(0.0)
    for now_s in (3.0, 6.0, 9.0, 12.0):
        history = history.answered(now_s, INTERVAL_S)
    assert history.covers(TTL_S, 12.0, INTERVAL_S)
    assert not history.covers(12.5, 12.0, INTERVAL_S)


def test_an_answer_after_more_than_two_intervals_restarts_the_history():
    late = HeartbeatHistory(0.0, 90.0).answered(96.1, INTERVAL_S)
    assert late == HeartbeatHistory(96.1, 96.1)
    assert HeartbeatHistory(0.0, 90.0).answered(96.0, INTERVAL_S) == HeartbeatHistory(0.0, 96.0)


def test_a_failed_heartbeat_restarts_the_history_and_is_no_answer():
    assert HeartbeatHistory(0.0, 90.0).failed(93.0) == HeartbeatHistory(93.0, 90.0)


def test_a_history_whose_last_answer_is_too_old_covers_nothing():
    assert ALL_ANSWERED.covers(TTL_S, 105.0, INTERVAL_S)
    assert not ALL_ANSWERED.covers(TTL_S, 105.1, INTERVAL_S)


# Absences.

RECORDED = [
    ("a single absence is isolated", (), ["m1"], {}, [("m1", 100.0, True)]),
    ("two at the same time are not", (), ["m2", "m1"], {}, [("m1", 100.0, False), ("m2", 100.0, False)]),
    (
        "two within a second are not, the first included",
        (absence("m1", 99.0),),
        ["m1", "m2"],
        {},
        [("m1", 99.0, False), ("m2", 100.0, False)],
    ),
    (
        "two more than a second apart are",
        (absence("m1", 98.9),),
        ["m1", "m2"],
        {},
        [("m1", 98.9, True), ("m2", 100.0, True)],
    ),
    ("one just after a disturbance is not", (), ["m1"], {"disturbed_s": 99.5}, [("m1", 100.0, False)]),
    ("one long after a disturbance is", (), ["m1"], {"disturbed_s": 98.9}, [("m1", 100.0, True)]),
    (
        "one just before a disturbance is not",
        (absence("m1", 99.5),),
        ["m1"],
        {"disturbed_s": 100.0},
        [("m1", 99.5, False)],
    ),
    (
        "one long before a disturbance stays isolated",
        (absence("m1", 90.0),),
        ["m1"],
        {"disturbed_s": 100.0},
        [("m1", 90.0, True)],
    ),
    ("the absence of a returned machine is forgotten", (absence("m1", 90.0),), [], {}, []),
]


@pytest.mark.parametrize(
    ("known", "absent", "others", "expected"), [row[1:] for row in RECORDED], ids=[r[0] for r in RECORDED]
)
def test_an_absence_is_recorded_with_its_start_and_whether_it_is_isolated(known, absent, others, expected):
    assert [(each.machine, each.since_s, each.isolated) for each in record(known, absent, **others)] == expected


def test_store_healthy_is_recorded_when_the_absence_starts_and_kept():
    first = record((), ["m1"], store_healthy=False)
    assert [each.store_healthy for each in first] == [False]
    assert record(first, ["m1"], now_s=105.0, store_healthy=True) == first


def test_a_machine_absent_again_after_a_return_has_a_new_absence():
    first = record((), ["m1"], now_s=100.0)
    assert record(record(first, [], now_s=101.0), ["m1"], now_s=105.0) == (absence("m1", 105.0),)


# Verdicts.

VERDICTS = [
    ("isolated, store healthy: away for a second", absence(), ALL_ANSWERED, 100.9, "away", 101.0),
    ("isolated, store healthy: then dead", absence(), ALL_ANSWERED, 101.0, "dead", None),
    (
        "not isolated: away for a TTL and a second",
        absence(isolated=False),
        None,
        110.9,
        "away",
        111.0,
    ),
    ("not isolated: then dead", absence(isolated=False), None, 111.0, "dead", None),
    (
        "store not healthy before: away for a TTL and a second",
        absence(store_healthy=False),
        None,
        110.9,
        "away",
        111.0,
    ),
    (
        "store not healthy since: away until it was for a TTL",
        absence(),
        HeartbeatHistory(105.0, 114.0),
        115.9,
        "away",
        116.0,
    ),
    ("store not healthy since: then dead", absence(), HeartbeatHistory(105.0, 114.0), 116.0, "dead", None),
    (
        "own heartbeats unanswered: away, check after the next one",
        absence(),
        ALL_ANSWERED,
        105.5,
        "away",
        108.5,
    ),
]


@pytest.mark.covers("2.10.1")
@pytest.mark.parametrize(
    ("missing", "beats", "now_s", "judged", "next_s"), [row[1:] for row in VERDICTS], ids=[row[0] for row in VERDICTS]
)
def test_an_absent_machine_is_judged_away_or_dead(missing, beats, now_s, judged, next_s):
    found = verdict([missing], now_s, beats)
    assert (found.dead, found.away) == ((("m1",), ()) if judged == "dead" else ((), ("m1",)))
    assert found.next_s == next_s


def test_without_absent_machines_no_further_check_is_due():
    assert verdict([], 100.0) == judge_absences((), ALL_ANSWERED, now_s=100.0, ttl_s=TTL_S, interval_s=INTERVAL_S)
    assert verdict([], 100.0).next_s is None


@pytest.mark.covers("9.14")
def test_the_next_check_is_due_when_the_first_absent_machine_may_be_dead():
    found = verdict([absence("m1", 100.0), absence("m2", 99.5), absence("m3", 90.0)], 100.0)
    assert (found.dead, found.away, found.next_s) == (("m3",), ("m1", "m2"), 100.5)


@pytest.mark.covers("P.1")
@given(
    beats=st.lists(st.sampled_from(["answered", "failed", "silent"]), min_size=1, max_size=12),
    gone_at=st.integers(0, 11),
    several=st.booleans(),
)
def test_no_machine_is_dead_before_the_store_had_time_to_show_it_alive(beats, gone_at, several):
    history, absences, disturbed_s = HeartbeatHistory.begin(0.0), (), None
    last_trouble_s = 0.0
    for step, beat in enumerate(beats):
        now_s = step * INTERVAL_S
        if beat == "answered":
            history = history.answered(now_s, INTERVAL_S)
        elif beat == "failed":
            history, disturbed_s, last_trouble_s = history.failed(now_s), now_s, now_s
        absent = (["m1", "m2"] if several else ["m1"]) if step >= gone_at else []
        store_healthy = history.covers(TTL_S, now_s, INTERVAL_S)
        absences = record_absences(absences, absent, now_s=now_s, store_healthy=store_healthy, disturbed_s=disturbed_s)
        found = judge_absences(absences, history, now_s=now_s, ttl_s=TTL_S, interval_s=INTERVAL_S)
        assert sorted((*found.dead, *found.away)) == absent
        if found.dead:
            gone_s = gone_at * INTERVAL_S
            assert now_s - history.last_s <= 2 * INTERVAL_S
            assert now_s >= gone_s + 1.0
            if several or last_trouble_s > gone_s:
                assert now_s >= max(gone_s, last_trouble_s) + TTL_S
