"""The metrics of fleetd, in Prometheus' text format.

A process has one set of series, which the module that does the work updates. Gauges are set when metrics are scraped
(`show_…`). Nothing in fleetd reads a metric.

Names of counters end in `_total` and of durations in `_seconds`, except the names that CoreOS fleet used. Labels have
few values: nothing is counted by unit or by machine.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from fleetd import __version__
from fleetd.scheduler.stats import ClusterStats, PlanStats

CONTENT_TYPE = "text/plain; version=0.0.4"
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
Info("fleet_build", "Which fleetd this is", registry=REGISTRY).info(
    {"version": __version__, "python": platform.python_version()}
)


def _counter(name: str, help_: str, *labels: str) -> Counter:
    return Counter(name, help_, labels, registry=REGISTRY)


def _gauge(name: str, help_: str, *labels: str) -> Gauge:
    return Gauge(name, help_, labels, registry=REGISTRY)


def _histogram(name: str, help_: str, *labels: str) -> Histogram:
    return Histogram(name, help_, labels, buckets=BUCKETS_S, registry=REGISTRY)


# The leader. All but LEADS have values on the leader alone.

LEADS = _gauge("fleet_engine_leader", "1 on the machine that leads the cluster, 0 on the others")
LEADER_START = _gauge("fleet_engine_leader_start_time", "Unix time at which this machine became leader; 0 if it is not")
BLIND = _gauge("fleet_engine_blind", "1 while this machine leads and cannot read the cluster")
QUEUE_LENGTH = _gauge("fleet_engine_queue_length", "Changes that are not planned for yet")
PASSES = _counter("fleet_engine_reconcile_count_total", "Passes of the leader: update the snapshot, plan, write")
PASS_S = _histogram("fleet_engine_reconcile_duration_second", "Duration of a pass, writing included")
PLAN_S = _histogram("fleet_engine_plan_duration_seconds", "Duration of planning")
TASKS = _counter("fleet_engine_task_count_total", "Units placed on a machine or withdrawn from one", "type")
TASKS_FAILED = _counter(
    "fleet_engine_task_failure_count_total", "The same for plans that were not written completely", "type"
)
REFUSED = _counter(
    "fleet_engine_reconcile_failure_count_total",
    "Units that lost their machine (machine_away), may no longer run on it (run), or fit on no machine (schedule); "
    "counted once, when it is decided",
    "type",
)
UNITS = _gauge(
    "fleet_units",
    "Units of the cluster, by target state and current state (leader)",
    "target",
    "current",
)
ALLOCATIONS = _gauge("fleet_unit_allocations", "Units on machines, by systemd's active state (leader)", "active")
MACHINES = _gauge(
    "fleet_machines",
    "Machines, by mode; ready ones that are cordoned as cordoned (leader)",
    "mode",
)

# The store and its records.

STORE_S = _histogram("fleet_store_request_duration_seconds", "Duration of requests to the store", "operation")
STORE_FAILED = _counter(
    "fleet_store_request_failures_total",
    "Failed requests to the store. Conflicts are normal: the request is repeated with new data",
    "operation",
    "kind",
)
ETCD_CERTIFICATE_EXPIRES = _gauge(
    "fleet_etcd_certificate_not_after_timestamp_seconds",
    "Unix time at which the client certificate for etcd expires; 0 if there is none",
)
RECORDS = _counter("fleet_registry_operation_count_total", "Reads and writes of units", "type")
RECORDS_FAILED = _counter("fleet_registry_operation_failed_count_total", "Failed reads and writes of units", "type")
RECORDS_S = _histogram("fleet_registry_operation_duration_second", "Duration of reads and writes of units", "ops")

# The API of this machine.

ANSWERS = _counter("fleet_api_answers_total", "Answered API requests, by HTTP status", "code")
ANSWER_S = _histogram("fleet_api_answer_duration_seconds", "Duration of API requests", "method")
EVENT_READERS = _gauge("fleet_event_readers", "Streams of events that are being read")
EVENT_READERS_BEHIND = _counter(
    "fleet_event_readers_behind_total", "Streams of events that were ended because their readers were too slow"
)

LOCKS_HELD = _gauge("fleet_locks_held", "Sessions of locks that this server has given or renewed, and whose ttl runs")
LOCK_WAITERS = _gauge("fleet_lock_waiters", "Clients that wait for a lock at this server")
LOCKS_TAKEN = _counter(
    "fleet_locks_taken_total", "Locks that this server has given, by whether they were waited for", "after"
)
LOCKS_LOST = _counter(
    "fleet_locks_lost_total", "Places in locks that this server has found vanished, and given to others or cleared"
)

WORKERS = _gauge("fleet_workers_connected", "Workers that read their changes from this server")
WORKER_ANSWERS = _counter(
    "fleet_worker_answers_total", "Answered requests of workers, by call and HTTP status", "call", "code"
)
WORKER_STREAMS_CLOSED = _counter(
    "fleet_worker_streams_closed_total", "Streams of changes that this server has closed, by reason", "reason"
)

# This machine.

REGISTERED = _gauge("fleet_registered", "1 while this machine is registered with the cluster")
CERTIFICATE_EXPIRES = _gauge(
    "fleet_certificate_not_after_timestamp_seconds",
    "Unix time at which the certificate of this machine expires; 0 if it has none",
)
REGISTRATIONS = _counter(
    "fleet_registrations_total", "Registrations of this machine; each after the first means a lost lease"
)
BEATS = _counter("fleet_heartbeats_total", "Heartbeats of this machine's lease, by result", "result")
AGENT_PASSES = _counter("fleet_agent_passes_total", "Passes over this machine's units, by result", "result")
AGENT_PASS_S = _histogram("fleet_agent_pass_duration_seconds", "Duration of reconciliation passes")
DBUS_DROPPED = _counter(
    "fleet_dbus_signals_dropped_total", "D-Bus signals that were dropped: not from systemd, or malformed"
)
STEPS = _counter("fleet_agent_steps_total", "Actions begun on units of this machine", "type")
STEPS_FAILED = _counter("fleet_agent_step_failures_total", "Failed actions; each is retried", "type")
STATES_HELD_BACK = _counter(
    "fleet_agent_states_held_back_total",
    "State changes of units that keep changing more than once a second: published late, or replaced by a later one",
)


@contextmanager
def registry_operation(type_: str) -> Iterator[None]:
    """Count and time a read or write of units: `get`, `set` or `get_all`."""
    RECORDS.labels(type_).inc()
    with RECORDS_S.labels(type_).time(), RECORDS_FAILED.labels(type_).count_exceptions():
        yield


def count_plan(outcome: PlanStats, *, written: bool) -> None:
    """Count what a plan does, and whether it was written."""
    tasks = TASKS if written else TASKS_FAILED
    for type_, number in (("attemptscheduleunit", outcome.placed), ("unscheduleunit", outcome.taken_back)):
        if number:
            tasks.labels(type_).inc(number)
    refused = (("machine_away", outcome.machine_away), ("run", outcome.unfit), ("schedule", outcome.unplaced))
    for type_, number in refused if written else ():
        if number:
            REFUSED.labels(type_).inc(number)


def show_leading(since_s: float, queue_length: int, stats: ClusterStats | None, *, is_blind: bool) -> None:
    """Set the leader's gauges. It leads since this Unix time; `stats` is None until the cluster was counted."""
    LEADS.set(1)
    LEADER_START.set(since_s)
    BLIND.set(is_blind)
    QUEUE_LENGTH.set(queue_length)
    for gauge in (UNITS, ALLOCATIONS, MACHINES):
        gauge.clear()
    if stats is None:
        return
    for gauge, counts in ((UNITS, stats.units), (ALLOCATIONS, stats.allocations), (MACHINES, stats.machines)):
        for labels, number in counts.items():
            gauge.labels(*labels).set(number)


def show_following() -> None:
    """Clear the leader's gauges: this machine does not lead."""
    for gauge in (LEADS, LEADER_START, BLIND, QUEUE_LENGTH):
        gauge.set(0)
    for gauge in (UNITS, ALLOCATIONS, MACHINES):
        gauge.clear()


def render() -> bytes:
    """All series, in text format 0.0.4."""
    return generate_latest(REGISTRY)
