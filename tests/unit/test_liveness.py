"""Who counts as dead: a lease that is gone is not a machine that is dead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.scheduler.liveness import Absence, HeartbeatHistory, judge_absences, record_absences

TTL_S, INTERVAL_S = 10.0, 3.0
WELL = HeartbeatHistory(well_since_s=0.0, last_s=99.0)


def absence(machine="m1", since_s=100.0, isolated=True, store_healthy=True):
    return Absence(machine, since_s, isolated, store_healthy)


def verdict(absences, now_s, beats=None):
    """The verdict of a leader whose beats are answered, if nothing else is said."""
    beats = beats or HeartbeatHistory(0.0, now_s)
    return judge_absences(absences, beats, now_s=now_s, ttl_s=TTL_S, interval_s=INTERVAL_S)


def note(known, absent, now_s=100.0, store_healthy=True, disturbed_s=None):
    return record_absences(known, absent, now_s=now_s, store_healthy=store_healthy, disturbed_s=disturbed_s)


# The own heartbeats.


def test_a_history_begins_with_nothing_known_of_the_time_before():
    history = HeartbeatHistory.begin(5.0)
    assert not history.covers(TTL_S, 5.0, INTERVAL_S)
    assert history.covers(0.0, 5.0, INTERVAL_S)


def test_beats_that_are_answered_in_time_cover_the_time_since_the_first():
    history = HeartbeatHistory.begin(0.0)
    for now_s in (3.0, 6.0, 9.0, 12.0):
        history = history.answered(now_s, INTERVAL_S)
    assert history.covers(TTL_S, 12.0, INTERVAL_S)
    assert not history.covers(12.5, 12.0, INTERVAL_S)


def test_an_answer_later_than_two_intervals_begins_the_history_anew():
    late = HeartbeatHistory(0.0, 90.0).answered(96.1, INTERVAL_S)
    assert late == HeartbeatHistory(96.1, 96.1)
    assert HeartbeatHistory(0.0, 90.0).answered(96.0, INTERVAL_S) == HeartbeatHistory(0.0, 96.0)


def test_a_beat_that_failed_begins_the_history_anew_without_being_an_answer():
    assert HeartbeatHistory(0.0, 90.0).failed(93.0) == HeartbeatHistory(93.0, 90.0)


def test_a_history_whose_last_answer_is_too_old_covers_nothing():
    assert WELL.covers(TTL_S, 105.0, INTERVAL_S)
    assert not WELL.covers(TTL_S, 105.1, INTERVAL_S)


# What is noted of an absence.

NOTED = [
    ("one that vanishes by itself is alone", (), ["m1"], {}, [("m1", 100.0, True)]),
    ("two that vanish together are not", (), ["m2", "m1"], {}, [("m1", 100.0, False), ("m2", 100.0, False)]),
    (
        "one that vanishes within a second of another takes that one's loneliness too",
        (absence("m1", 99.0),),
        ["m1", "m2"],
        {},
        [("m1", 99.0, False), ("m2", 100.0, False)],
    ),
    (
        "one that vanishes later than that is alone, and so is the former",
        (absence("m1", 98.9),),
        ["m1", "m2"],
        {},
        [("m1", 98.9, True), ("m2", 100.0, True)],
    ),
    ("one that vanishes with the own lease is not alone", (), ["m1"], {"disturbed_s": 99.5}, [("m1", 100.0, False)]),
    ("a disturbance of long ago does not count", (), ["m1"], {"disturbed_s": 98.9}, [("m1", 100.0, True)]),
    (
        "one that vanished just before the own lease is not alone either",
        (absence("m1", 99.5),),
        ["m1"],
        {"disturbed_s": 100.0},
        [("m1", 99.5, False)],
    ),
    (
        "one that vanished long before the own lease stays alone",
        (absence("m1", 90.0),),
        ["m1"],
        {"disturbed_s": 100.0},
        [("m1", 90.0, True)],
    ),
    ("one that is back is forgotten", (absence("m1", 90.0),), [], {}, []),
]


@pytest.mark.parametrize(
    ("known", "absent", "others", "expected"), [row[1:] for row in NOTED], ids=[r[0] for r in NOTED]
)
def test_what_is_noted_of_an_absence(known, absent, others, expected):
    assert [(each.machine, each.since_s, each.isolated) for each in note(known, absent, **others)] == expected


def test_whether_the_store_was_well_is_noted_when_the_absence_begins_and_not_changed_later():
    first = note((), ["m1"], store_healthy=False)
    assert [each.store_healthy for each in first] == [False]
    assert note(first, ["m1"], now_s=105.0, store_healthy=True) == first


def test_one_that_came_back_and_vanished_again_is_absent_anew():
    first = note((), ["m1"], now_s=100.0)
    assert note(note(first, [], now_s=101.0), ["m1"], now_s=105.0) == (absence("m1", 105.0),)


# The verdict.

VERDICTS = [
    ("a lonely one while all was well is away for a second", absence(), WELL, 100.9, "away", 101.0),
    ("and then dead", absence(), WELL, 101.0, "dead", None),
    (
        "one that was not alone is away for a time to live and a second",
        absence(isolated=False),
        None,
        110.9,
        "away",
        111.0,
    ),
    ("and then dead, too", absence(isolated=False), None, 111.0, "dead", None),
    (
        "so is one that vanished before the store had been well for long",
        absence(store_healthy=False),
        None,
        110.9,
        "away",
        111.0,
    ),
    (
        "a store that was not well since then has to be well for a time to live",
        absence(),
        HeartbeatHistory(105.0, 114.0),
        115.9,
        "away",
        116.0,
    ),
    ("and only then the machine is dead", absence(), HeartbeatHistory(105.0, 114.0), 116.0, "dead", None),
    (
        "nobody is dead as long as the own beats are not answered: look again after one more",
        absence(),
        WELL,
        105.5,
        "away",
        108.5,
    ),
]


@pytest.mark.covers("2.10.1")
@pytest.mark.parametrize(
    ("missing", "beats", "now_s", "word", "next_s"), [row[1:] for row in VERDICTS], ids=[row[0] for row in VERDICTS]
)
def test_the_verdict_on_an_absence(missing, beats, now_s, word, next_s):
    found = verdict([missing], now_s, beats)
    assert (found.dead, found.away) == ((("m1",), ()) if word == "dead" else ((), ("m1",)))
    assert found.next_s == next_s


def test_with_nobody_absent_there_is_no_need_to_look_again():
    assert verdict([], 100.0) == judge_absences((), WELL, now_s=100.0, ttl_s=TTL_S, interval_s=INTERVAL_S)
    assert verdict([], 100.0).next_s is None


@pytest.mark.covers("9.14")
def test_the_next_look_is_due_when_the_first_of_the_absent_may_be_dead():
    found = verdict([absence("m1", 100.0), absence("m2", 99.5), absence("m3", 90.0)], 100.0)
    assert (found.dead, found.away, found.next_s) == (("m3",), ("m1", "m2"), 100.5)


@pytest.mark.covers("P.1")
@given(
    beats=st.lists(st.sampled_from(["answered", "failed", "silent"]), min_size=1, max_size=12),
    gone_at=st.integers(0, 11),
    crowd=st.booleans(),
)
def test_nobody_is_dead_unless_the_store_had_time_to_show_them_alive(beats, gone_at, crowd):
    history, absences, disturbed_s = HeartbeatHistory.begin(0.0), (), None
    last_trouble_s = 0.0
    for step, beat in enumerate(beats):
        now_s = step * INTERVAL_S
        if beat == "answered":
            history = history.answered(now_s, INTERVAL_S)
        elif beat == "failed":
            history, disturbed_s, last_trouble_s = history.failed(now_s), now_s, now_s
        absent = (["m1", "m2"] if crowd else ["m1"]) if step >= gone_at else []
        store_healthy = history.covers(TTL_S, now_s, INTERVAL_S)
        absences = record_absences(absences, absent, now_s=now_s, store_healthy=store_healthy, disturbed_s=disturbed_s)
        found = judge_absences(absences, history, now_s=now_s, ttl_s=TTL_S, interval_s=INTERVAL_S)
        assert sorted((*found.dead, *found.away)) == absent
        if found.dead:
            gone_s = gone_at * INTERVAL_S
            assert now_s - history.last_s <= 2 * INTERVAL_S
            assert now_s >= gone_s + 1.0
            if crowd or last_trouble_s > gone_s:
                assert now_s >= max(gone_s, last_trouble_s) + TTL_S
