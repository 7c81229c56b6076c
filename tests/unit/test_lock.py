"""Who holds a lock, who is next, and how long somebody may go on without an answer."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fleetd.api.lock_schema import LockRequest
from fleetd.model.lock import (
    DEFAULT_TTL_S,
    LONGEST_TTL_S,
    MOST_LOCKS,
    SHARE_OF_LOCKS,
    Claim,
    Holder,
    LockEpoch,
    LockRecord,
    Session,
    SessionId,
    SessionValue,
    Step,
    begin_epoch,
    decide,
    find_holding,
    find_other_slots,
    find_overdue,
    next_step,
    parse_session_id,
    read_session,
    refuse_another_lock,
    refuse_lock_name,
    refuse_lock_terms,
)

FOREIGN = Session("f", 5, is_fleets=False)
NOW = 1000.0


def holder(lease: str, created: int, ttl_s: float = 30.0, slots: int = 1) -> Holder:
    return Holder(lease, created, ttl_s, 7, slots)


def session(lease: str, created: int, slots: int = 1) -> Session:
    return Session(lease, created, SessionValue(slots))


def claim(own: Holder, sessions: Sequence[Session], *holders: Holder, **gone_since: float) -> Claim:
    return decide(own, sessions, LockRecord(holders), gone_since, NOW).claim


def test_the_only_session_takes_the_lock() -> None:
    own = holder("a", 3)
    decision = decide(own, [session("a", 3)], LockRecord(), {}, NOW)
    assert (decision.claim, decision.record) == (Claim.TAKE, LockRecord((own,)))


def test_a_session_without_its_key_is_lost() -> None:
    assert claim(holder("a", 3), [session("b", 2)]) is Claim.LOST


@pytest.mark.parametrize(
    ("slots", "ahead", "expected"),
    [(1, 0, Claim.TAKE), (1, 1, Claim.WAIT), (2, 1, Claim.TAKE), (2, 2, Claim.WAIT), (3, 2, Claim.TAKE)],
)
def test_the_first_n_by_revision_of_creation_hold_it(slots: int, ahead: int, expected: Claim) -> None:
    before = [session(f"b{number}", number + 1, slots) for number in range(ahead)]
    behind = [session("z", 99, slots)]
    assert claim(holder("a", 50, slots=slots), [*before, session("a", 50, slots), *behind]) is expected


def test_a_program_that_is_not_fleet_is_waited_for_whatever_the_slots() -> None:
    own = holder("a", 9, slots=3)
    decision = decide(own, [FOREIGN, session("a", 9, 3)], LockRecord(), {}, NOW)
    assert (decision.claim, decision.blocked_by, decision.until) == (Claim.WAIT, ("f",), None)


def test_a_holder_whose_key_is_gone_is_waited_for_its_full_ttl() -> None:
    own, sessions = holder("a", 9), [session("a", 9)]
    gone = holder("g", 2, ttl_s=40.0)
    decision = decide(own, sessions, LockRecord((gone,)), {"g": NOW - 39.9}, NOW)
    assert (decision.claim, decision.until) == (Claim.WAIT, NOW + 0.1 - 39.9 + 39.9)
    taken = decide(own, sessions, LockRecord((gone,)), {"g": NOW - 40.0}, NOW)
    assert (taken.claim, taken.record) == (Claim.TAKE, LockRecord((own,)))


def test_the_wait_begins_when_it_is_first_seen() -> None:
    decision = decide(holder("a", 9), [session("a", 9)], LockRecord((holder("g", 2, 30.0),)), {}, NOW)
    assert decision.until == NOW + 30.0


def test_a_released_holder_is_waited_for_no_more() -> None:
    record = LockRecord((holder("g", 2), holder("h", 3))).without(["g", "h"])
    assert decide(holder("a", 9), [session("a", 9)], record, {}, NOW).claim is Claim.TAKE


def test_a_holder_that_is_there_goes_on_holding() -> None:
    assert claim(holder("a", 9), [session("g", 2), session("a", 9)], holder("g", 2), g=0.0) is Claim.WAIT


def test_fewer_slots_count_if_they_are_not_the_same() -> None:
    assert claim(holder("a", 9, slots=5), [session("b", 2, 1), session("a", 9, 5)]) is Claim.WAIT


@given(
    slots=st.integers(1, 4),
    created=st.lists(st.integers(1, 50), unique=True, max_size=10),
    gone=st.dictionaries(st.integers(51, 60), st.floats(0, 2 * NOW, allow_nan=False), max_size=5),
    order=st.randoms(use_true_random=False),
)
def test_whatever_the_order_of_taking_there_are_never_more_holders_than_slots(
    slots: int, created: list[int], gone: dict[int, float], order: object
) -> None:
    sessions = [session(str(number), number, slots) for number in created]
    record = LockRecord(tuple(holder(str(number), number, 30.0, slots) for number in sorted(gone)[:slots]))
    since = {str(number): at for number, at in gone.items()}
    turns = list(sessions) * 2
    order.shuffle(turns)  # type: ignore[attr-defined]
    for turn in turns:
        if record.find(turn.lease) is None:
            decision = decide(holder(turn.lease, turn.created, slots=slots), sessions, record, since, NOW)
            record = decision.record or record
            assert len(record.holders) <= slots
    waiting = {one.lease for one in sessions} - {one.lease for one in record.holders}
    live = [one for one in record.holders if one.lease in {each.lease for each in sessions}]
    assert all(int(one.lease) < int(other) for one in live for other in waiting)  # in the order of their creation


def test_the_sessions_that_hold_the_lock() -> None:
    sessions = [session("w", 8), session("a", 3)]
    assert [one.lease for one in find_holding(sessions, LockRecord((holder("a", 3),)))] == ["a"]
    assert [one.lease for one in find_holding([session("a", 7), FOREIGN], LockRecord())] == ["f"]
    assert find_holding([session("a", 3)], LockRecord()) == []


def test_other_slots_are_those_of_fleets_sessions_before_and_of_holders() -> None:
    assert find_other_slots([session("a", 3, 2)], LockRecord(), 2) is None
    assert find_other_slots([session("a", 3, 2)], LockRecord(), 1) == 2
    assert find_other_slots([session("a", 3, 2)], LockRecord(), 1, created=2) is None
    assert find_other_slots([FOREIGN], LockRecord((holder("h", 1, slots=4),)), 1) == 4
    assert find_other_slots([FOREIGN], LockRecord(), 3) is None


def test_what_is_stored_in_a_key() -> None:
    assert read_session("a", 3, b'{"slots":2,"by":"ann","holder":"h:1"}') == Session(
        "a", 3, SessionValue(2, "ann", "h:1")
    )
    for foreign in (b"", b"\xff", b"[" * 9999, b"12"):
        assert read_session("a", 3, foreign) == Session("a", 3, SessionValue(), is_fleets=False)


@pytest.mark.parametrize("name", ["backup", "a", "_x", "db.main:2@x-y", "a" * 128])
def test_names_of_locks(name: str) -> None:
    assert refuse_lock_name(name) == ""


@pytest.mark.parametrize("name", ["", "a/b", "-a", ".", "a b", "ä", "a" * 129, "a\n", "a\x1b[31m"])
def test_no_names_of_locks(name: str) -> None:
    assert "is no name of a lock" in refuse_lock_name(name)
    assert "\x1b" not in refuse_lock_name(name)


@pytest.mark.parametrize(
    ("ttl_s", "slots", "word"),
    [(2.9, 1, "ttl"), (301, 1, "ttl"), (float("nan"), 1, "ttl"), (5, 0, "slots"), (5, 257, "256")],
)
def test_terms_that_no_lock_has(ttl_s: float, slots: int, word: str) -> None:
    assert word in refuse_lock_terms(ttl_s, slots)
    assert refuse_lock_terms(3, 1) == refuse_lock_terms(300, 256) == ""


def test_ids_of_sessions() -> None:
    assert parse_session_id("a.b.1f") == SessionId("a.b", 31)
    assert str(SessionId("a.b", 31)) == "a.b.1f"
    for text in ("", "a", "a.", ".1f", "a.1F", "a.0", "a.g", "a/b.1", "a." + "f" * 16, "a." + "1" * 17):
        assert parse_session_id(text) is None


def test_tokens_rise_across_epochs_also_as_text() -> None:
    one, other = holder("a", 999_999), replace(holder("b", 3), epoch=8)
    assert one.token == "000000000007-0000000000000999999"
    assert one.token < other.token


@pytest.mark.parametrize(
    ("stored", "name", "since", "has_changed", "expected"),
    [
        (LockEpoch("c/x", 5), "c/x", NOW, True, (LockEpoch("c/x", 5), NOW)),
        (None, "c", NOW, False, (LockEpoch("c", 1_800_000_000), NOW)),
        (None, "c", NOW - 1, True, (None, NOW - 1 + LONGEST_TTL_S)),
        (None, "c/x", NOW - 1, False, (None, NOW - 1 + LONGEST_TTL_S)),
        (LockEpoch("c", 5), "c/x", NOW - 1, True, (None, NOW - 1 + LONGEST_TTL_S)),
        (LockEpoch("c", 5), "c/x", 0.0, False, (LockEpoch("c/x", 1_800_000_000), LONGEST_TTL_S)),
        (LockEpoch("c", 1_900_000_000), "c/x", 0.0, False, (LockEpoch("c/x", 1_900_000_001), LONGEST_TTL_S)),
    ],
)
def test_an_epoch_begins_when_no_holder_of_the_one_before_can_run(
    stored: LockEpoch | None,
    name: str,
    since: float,
    has_changed: bool,
    expected: tuple[LockEpoch | None, float],
) -> None:
    found = begin_epoch(stored, name, since, has_changed=has_changed, now=NOW, unix_now=1_800_000_000.5)
    assert found == expected


def test_the_usual_ttl_is_that_of_the_api() -> None:
    assert LockRequest().ttl == DEFAULT_TTL_S


def test_a_client_ends_its_command_before_the_ttl() -> None:
    assert next_step(NOW, 30.0, NOW + 19.9) == (Step.RUN, NOW + 20.0)
    assert next_step(NOW, 30.0, NOW + 20.0) == (Step.TERM, NOW + 27.0)
    assert next_step(NOW, 30.0, NOW + 27.0)[0] is Step.KILL


def test_how_many_locks_a_cluster_and_a_user_may_hold() -> None:
    assert refuse_another_lock(MOST_LOCKS - 1, SHARE_OF_LOCKS - 1) == ""
    assert refuse_another_lock(MOST_LOCKS, 0).startswith("10000 locks are held in this cluster, and 10000 may be: ")
    own = refuse_another_lock(MOST_LOCKS - 1, SHARE_OF_LOCKS)
    assert own.startswith("you hold 2500 locks of this cluster, and one user may hold 2500: ")
    assert "fleetctl unlock --force" in own


def test_who_is_overdue() -> None:
    record = LockRecord((Holder("a", 1, 10.0, 1), Holder("b", 2, 10.0, 1), Holder("c", 3, 30.0, 1)))
    found = find_overdue([Session("a", 1)], record, {"a": 0.0, "b": 5.0, "c": 5.0}, 15.0)
    assert [holder.lease for holder in found] == ["b"]
    assert find_overdue([], record, {}, 1e9) == (), "nobody has seen yet that they are gone"
