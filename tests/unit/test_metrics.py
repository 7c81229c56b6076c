"""Metrics: each series changes with its event, and has the names of CoreOS fleet and Prometheus."""

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from fleetd import __version__, metrics
from fleetd.leader.term import SMALL_PLAN
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.instrumented import InstrumentedStore
from fleetd.store.protocol import (
    Conflict,
    LeaseNotFound,
    Put,
    Store,
    Unavailable,
    Unchanged,
)
from tests.metrics import Counted, exported
from tests.unit.leading_node import MACHINE, TTL_S, Node
from tests.virtual_time import offload_inline, run_virtually


def scenario(body: Callable[[Node, Counted], Awaitable[None]]) -> None:
    """Run a scenario on a virtual clock."""

    async def run() -> None:
        node, counted = Node(), Counted()
        await node.start()
        try:
            await body(node, counted)
        finally:
            await node.stop()

    run_virtually(run())


@pytest.mark.covers("7.2", "7.4", "7.5", "7.6", "10.5.5", "10.7.13")
def test_the_leader_counts_placed_withdrawn_and_infeasible_units() -> None:
    async def body(node: Node, counted: Counted) -> None:
        await node.add("web.service")
        await node.add("far.service", "[X-Fleet]\nMachineID=elsewhere\n")
        task, refused = "fleet_engine_task_count_total", "fleet_engine_reconcile_failure_count_total"
        assert counted(task, type="attemptscheduleunit") == 1
        assert counted(task, type="unscheduleunit") == 0
        assert counted(refused, type="schedule") == 1
        unit, _ = await node.registry.unit_and_decision("web.service")
        assert unit
        await node.registry.write(node.registry.unit_write_set(unit.name, unit, None))
        await asyncio.sleep(10 * TTL_S)
        assert counted(task, type="unscheduleunit") == 1
        assert counted(refused, type="schedule") == 1
        passes = counted("fleet_engine_reconcile_count_total")
        assert passes >= 3
        assert counted("fleet_engine_reconcile_duration_second_count") == passes
        assert counted("fleet_engine_plan_duration_seconds_count") == passes

    scenario(body)


@pytest.mark.covers("7.3")
def test_a_plan_refused_by_the_store_counts_as_failed_and_later_as_done() -> None:
    async def body(node: Node, counted: Counted) -> None:
        node.store.is_failing = True
        await node.add("web.service")
        tried = counted("fleet_engine_task_failure_count_total", type="attemptscheduleunit")
        assert tried >= 1
        assert counted("fleet_engine_task_count_total", type="attemptscheduleunit") == 0
        assert counted("fleet_store_request_failures_total", operation="transact", kind="unavailable") == tried
        node.store.is_failing = False
        await asyncio.sleep(TTL_S)
        assert counted("fleet_engine_task_count_total", type="attemptscheduleunit") == 1

    scenario(body)


@pytest.mark.covers("7.1", "10.7.13")
def test_the_leader_shows_its_queue_and_cluster_and_a_follower_does_not() -> None:
    async def body(node: Node, _: Counted) -> None:
        await node.add("web.service")
        await node.add("web@.service", target=TargetState.INACTIVE)
        state = UnitState("loaded", "active", "running", target=TargetState.LAUNCHED)
        await node.store.transact([], [node.registry.put(state, MACHINE, "web.service")])
        await node.registry.write_unit(Unit("new.service", "", TargetState.LOADED), None)
        await asyncio.sleep(0.1)
        assert node.election.term
        node.election.term.show_metrics()
        shown = exported()
        assert shown["fleet_engine_leader", ()] == 1
        assert shown["fleet_engine_leader_start_time", ()] == 1_700_000_000
        assert shown["fleet_engine_queue_length", ()] == 0
        cluster = {
            key: value
            for key, value in shown.items()
            if key[0] in ("fleet_units", "fleet_unit_allocations", "fleet_machines")
        }
        assert cluster == {
            ("fleet_units", (("current", "launched"), ("target", "launched"))): 1,
            ("fleet_units", (("current", "inactive"), ("target", "inactive"))): 1,
            ("fleet_units", (("current", "inactive"), ("target", "loaded"))): 1,
            ("fleet_unit_allocations", (("active", "active"),)): 1,
            ("fleet_machines", (("mode", "ready"),)): 1,
        }
        metrics.show_following()
        shown = exported()
        assert shown["fleet_engine_leader", ()] == shown["fleet_engine_leader_start_time", ()] == 0
        assert not any(name in ("fleet_units", "fleet_unit_allocations", "fleet_machines") for name, _ in shown)

    scenario(body)


def test_changes_during_a_plan_are_the_leaders_queue() -> None:
    async def body(node: Node, _: Counted) -> None:
        node.may_plan.clear()
        names = [f"u{number:03}.service" for number in range(SMALL_PLAN + 1)]
        units = [Unit(name, "", TargetState.LAUNCHED) for name in names]
        await node.store.transact([], [node.registry.put(unit, unit.name) for unit in units])
        for number in range(3):
            await node.add(f"late{number}.service")
        assert node.election.term
        node.election.term.show_metrics()
        assert exported()["fleet_engine_queue_length", ()] == 3
        node.may_plan.set()
        await asyncio.sleep(0.1)
        node.election.term.show_metrics()
        assert exported()["fleet_engine_queue_length", ()] == 0

    scenario(body)


@pytest.mark.covers("5.5.1", "9.6")
def test_heartbeats_and_registrations_are_counted_by_result() -> None:
    async def body(node: Node, counted: Counted) -> None:
        assert counted("fleet_registrations_total") == 1
        await asyncio.sleep(TTL_S)
        assert counted("fleet_heartbeats_total", result="answered") == 3
        node.store.is_failing = True
        await asyncio.sleep(TTL_S / 3)
        node.store.is_failing = False
        assert counted("fleet_heartbeats_total", result="failed") >= 1
        await node.store.revoke(node.membership.lease)
        await asyncio.sleep(TTL_S)
        assert counted("fleet_registrations_total") == 2

    scenario(body)


@pytest.mark.covers("7.7", "7.8", "7.9")
def test_reads_and_writes_of_units_are_counted_and_timed_by_kind() -> None:
    async def body(node: Node, counted: Counted) -> None:
        def of(kind: str) -> tuple[float, float, float]:
            return (
                counted("fleet_registry_operation_count_total", type=kind),
                counted("fleet_registry_operation_failed_count_total", type=kind),
                counted("fleet_registry_operation_duration_second_count", ops=kind),
            )

        unit = Unit("web.service", "")
        await node.registry.write_unit(unit, None)
        with pytest.raises(Conflict):
            await node.registry.write_unit(unit, None)
        await node.registry.unit_and_decision("web.service")
        await node.registry.units()
        await node.registry.machines()
        assert [of(kind) for kind in ("set", "get", "get_all")] == [(2, 1, 2), (1, 0, 1), (1, 0, 1)]

    scenario(body)


class Recorder:
    """A double of a store: answers each call with its arguments."""

    def __getattr__(self, method: str) -> Callable[..., Any]:
        async def answer(*arguments: Any, **options: Any) -> Any:
            return (method, arguments, options)

        def watch(*arguments: Any, **options: Any) -> Any:
            return (method, arguments, options)

        return watch if method == "watch" else answer


@pytest.mark.parametrize(
    "method", [name for name in vars(Store) if name in InstrumentedStore.__dict__ and name[0] != "_"]
)
async def test_an_instrumented_store_forwards_calls_and_answers(method: str) -> None:
    _, *parameters = inspect.signature(getattr(Store, method)).parameters.values()
    arguments = [object() for each in parameters if each.kind is not each.KEYWORD_ONLY]
    options = {each.name: object() for each in parameters if each.kind is each.KEYWORD_ONLY}
    given = getattr(InstrumentedStore(cast(Store, Recorder())), method)(*arguments, **options)
    answer = await given if inspect.isawaitable(given) else given
    assert answer == (None if method == "close" else (method, tuple(arguments), options))


async def test_store_requests_are_timed_and_failures_counted_by_kind() -> None:
    store = InstrumentedStore(EmbeddedStore(":memory:", offload=offload_inline))
    counted = Counted()
    lease = await store.grant(60)
    await store.transact([], [Put("/a", b"", lease)])
    with pytest.raises(Conflict):
        await store.transact([Unchanged("/a", 7)], [])
    await store.revoke(lease)
    for _ in range(2):
        with pytest.raises(LeaseNotFound):
            await store.keep_alive(lease)
    await store.close()
    with pytest.raises(Unavailable):
        await store.revision()

    def asked(operation: str) -> float:
        return counted("fleet_store_request_duration_seconds_count", operation=operation)

    assert [asked(name) for name in ("grant", "transact", "revoke", "keep_alive", "revision", "get")] == [
        1,
        2,
        1,
        2,
        1,
        0,
    ]
    failures = "fleet_store_request_failures_total"
    assert counted(failures, operation="transact", kind="conflict") == 1
    assert counted(failures, operation="keep_alive", kind="lease_not_found") == 2
    assert counted(failures, operation="revision", kind="unavailable") == 1
    assert counted(failures, operation="transact", kind="unavailable") == 0


# In Prometheus' format

REFERENCE = {
    "fleet_engine_leader_start_time": ("gauge", ()),
    "fleet_engine_task_count_total": ("counter", ("type",)),
    "fleet_engine_task_failure_count_total": ("counter", ("type",)),
    "fleet_engine_reconcile_count_total": ("counter", ()),
    "fleet_engine_reconcile_duration_second": ("histogram", ()),
    "fleet_engine_reconcile_failure_count_total": ("counter", ("type",)),
    "fleet_registry_operation_count_total": ("counter", ("type",)),
    "fleet_registry_operation_failed_count_total": ("counter", ("type",)),
    "fleet_registry_operation_duration_second": ("histogram", ("ops",)),
}
_TYPE = re.compile(r"^# TYPE (\S+) (\S+)$", re.MULTILINE)


@pytest.mark.covers("7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "7.7", "7.8", "7.9", "10.7.14")
def test_coreos_fleets_series_have_their_names_types_and_labels() -> None:
    async def use_everything(node: Node, _: Counted) -> None:
        node.store.is_failing = True
        await node.add("web.service")
        node.store.is_failing = False
        await node.add("far.service", "[X-Fleet]\nMachineID=elsewhere\n")
        await asyncio.sleep(5)  # the leader retries
        await node.registry.units()
        await node.registry.unit_and_decision("web.service")
        with pytest.raises(Conflict):
            await node.registry.write_unit(Unit("web.service", ""), None)

    scenario(use_everything)
    kinds = dict(_TYPE.findall(metrics.render().decode()))
    for name, (kind, labels) in REFERENCE.items():
        assert kinds[name] == kind
        sample = f"{name}_bucket" if kind == "histogram" else name
        wanted = sorted((*labels, *["le"] * (kind == "histogram")))
        found = [sorted(dict(pairs)) for found_name, pairs in exported() if found_name == sample]
        assert found, name
        assert all(labels_found == wanted for labels_found in found), name


@pytest.mark.covers("7.10")
def test_the_process_and_the_build_are_shown() -> None:
    shown = exported()
    assert shown["process_resident_memory_bytes", ()] > 1e6
    assert shown["process_cpu_seconds_total", ()] > 0
    assert shown["process_open_fds", ()] > 2
    (build,) = [dict(labels) for name, labels in shown if name == "fleet_build_info"]
    assert build["version"] == __version__


def test_every_series_has_a_help_text() -> None:
    text = metrics.render().decode()
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    kinds = dict(_TYPE.findall(text))
    assert helps.keys() == kinds.keys()
    assert all(len(help_) > 10 for help_ in helps.values())
    assert not any(name.endswith("_created") for name in kinds)
