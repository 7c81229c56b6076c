"""Events in transactions: one record in each, within the store's limits, all of them once and in order."""

from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.event import ClusterEvent, EventKind
from fleetd.registry.events import EventLog
from fleetd.registry.records import EVENTS, KeySpace
from fleetd.registry.transactions import WriteSet, cut_into_transactions
from fleetd.store.limits import check_transaction
from fleetd.store.protocol import KeyValue, Put, Unchanged

GUARDS = (Unchanged("/fleet/leader", 1), Unchanged("/fleet/other", 1))
SETS = st.lists(
    st.tuples(st.integers(1, 100), st.sampled_from([0, 1, 3, 100]), st.sampled_from([10, 6000])), max_size=40
)


def write_set(number: int, operations: int, events: int, size: int) -> WriteSet:
    puts = tuple(Put(f"/fleet/k/{number}-{each}", b"x" * size) for each in range(operations))
    told = tuple(ClusterEvent(EventKind.PLACED, f"u{number}-{each}.service", "m" * 32) for each in range(events))
    return WriteSet((Unchanged(f"/fleet/d/{number}", 1),), puts, told)


def events_of(transaction: WriteSet) -> list[ClusterEvent]:
    records = [each for each in transaction.operations if isinstance(each, Put) and "/events/" in each.key]
    assert len(records) <= 1
    return [event for put in records for event in EVENTS.decode(KeyValue(put.key, put.value, 1, 1)).events]


@given(SETS)
def test_each_event_is_in_the_transaction_of_its_write_set_and_all_fit(drawn: list[tuple[int, int, int]]) -> None:
    log = EventLog(KeySpace(), lambda: 1e9, lambda: "w")
    write_sets = [write_set(number, *each) for number, each in enumerate(drawn)]
    told: list[ClusterEvent] = []
    for transaction in cut_into_transactions(iter(write_sets), GUARDS, log.write_set):
        check_transaction(transaction.comparisons, transaction.operations)
        keys = {operation.key for operation in transaction.operations}
        within = [each for each in write_sets if each.operations[0].key in keys]
        assert events_of(transaction) == [event for each in within for event in each.events]
        told += events_of(transaction)
    assert told == [event for each in write_sets for event in each.events]


def test_without_events_a_transaction_has_no_record() -> None:
    log = EventLog(KeySpace(), lambda: 1e9, lambda: "w")
    (transaction,) = cut_into_transactions([write_set(1, 128, 0, 10)], (), log.write_set)
    assert len(transaction.operations) == 128


def test_without_a_log_events_are_not_recorded() -> None:
    (transaction,) = cut_into_transactions([write_set(1, 3, 3, 10)])
    assert len(transaction.operations) == 3


def test_500_placements_take_as_many_transactions_as_without_events() -> None:
    log = EventLog(KeySpace(), lambda: 1e9, lambda: "w")
    placements = [write_set(number, 2, 1, 800) for number in range(500)]
    assert len([*cut_into_transactions(placements, GUARDS)]) == 8
    assert len([*cut_into_transactions(placements, GUARDS, log.write_set)]) == 8


def test_two_records_of_one_moment_have_different_keys() -> None:
    log = EventLog(KeySpace("/x/"), lambda: 1e9, lambda: "w")
    keys = [log.write_set([ClusterEvent(EventKind.LOST)]).operations[0].key for _ in range(2)]
    assert keys == ["/x.archive/events/001000000000000-w-1", "/x.archive/events/001000000000000-w-2"]
