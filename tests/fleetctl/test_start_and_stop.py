"""load, start, stop, unload, destroy: output, exit status, and when they return, for each outcome of a unit."""

from pathlib import Path

import pytest

from fleetd.api.http import render_error
from fleetd.model.reason import NO_MACHINES, RejectionKind, WaitingForRoom
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import M2, NO_SSD, STUCK, ScriptedCluster, ScriptedOutcome, infeasible

ON_M1 = "on 11111111.../10.0.0.1"
GLOBAL = "[Service]\nExecStart=/bin/true\n[X-Fleet]\nGlobal=true\n"


# start


@pytest.mark.covers("3.8.13", "3.8.15")
def test_start_creates_and_starts_a_new_unit(fleetctl: Fleetctl, cluster: ScriptedCluster, hello: Path) -> None:
    result = fleetctl("start", "hello.service")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout == f"Unit hello.service inactive\nUnit hello.service launched {ON_M1}\n"
    assert cluster.targets_asked == [("hello.service", "launched")]


@pytest.mark.covers("3.7.3")
def test_a_machine_without_an_address_is_shown_by_its_id(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service")
    cluster.outcomes["web.service"] = ScriptedOutcome(machine=M2)
    assert fleetctl("start", "web").stdout == "Unit web.service launched on 22222222...\n"


@pytest.mark.covers("3.8.13", "3.8.14")
def test_starting_an_active_unit_does_nothing(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="launched")
    result = fleetctl("start", "web")
    assert (result.status, result.stdout, result.stderr, cluster.targets_asked) == (0, "", "", [])


@pytest.mark.covers("10.2.5")
@pytest.mark.parametrize("active", ["failed", "inactive"])
def test_a_launched_unit_that_has_ended_is_started_again(
    fleetctl: Fleetctl, cluster: ScriptedCluster, active: str
) -> None:
    cluster.outcomes["web.service"] = ScriptedOutcome(active=active, sub="dead")
    cluster.add("web.service", target="launched")
    del cluster.outcomes["web.service"]
    result = fleetctl("start", "web")
    assert (result.status, result.stdout) == (0, f"Unit web.service launched {ON_M1}\n")
    assert cluster.targets_asked == [("web.service", "launched")]


@pytest.mark.covers("10.2.4", "P.6")
def test_a_oneshot_completes_each_time_it_is_started(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("job.service")
    cluster.outcomes["job.service"] = ScriptedOutcome(active="inactive", sub="dead", completed=True)
    for _ in range(2):
        result = fleetctl("start", "job")
        assert (result.status, result.stdout, result.stderr) == (0, f"Unit job.service launched {ON_M1}\n", "")
    assert cluster.targets_asked == [("job.service", "launched")] * 2


def test_a_unit_that_is_being_launched_is_only_waited_for(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.outcomes["web.service"] = STUCK
    cluster.add("web.service", target="launched")
    del cluster.outcomes["web.service"]
    assert fleetctl("start", "web").stdout == f"Unit web.service launched {ON_M1}\n"
    assert cluster.targets_asked == []


@pytest.mark.covers("3.8.20", "P.6")
@pytest.mark.parametrize(
    ("outcome", "complaint"),
    [
        (
            ScriptedOutcome(active="failed", sub="failed"),
            f"Unit web.service failed {ON_M1} (failed): systemctl status web.service there says why",
        ),
        (
            ScriptedOutcome(active="failed", sub="failed", error="Result: exit-code, status=203/EXEC"),
            f"Unit web.service failed {ON_M1} (failed): Result: exit-code, status=203/EXEC",
        ),
        (
            ScriptedOutcome(load="bad-setting", active="inactive", sub="dead"),
            f"Unit web.service could not be loaded {ON_M1}: systemd says bad-setting",
        ),
        (
            ScriptedOutcome(load="not-found", active="inactive", error="Unit a.mount not found.\x1b[31m\n"),
            f"Unit web.service failed {ON_M1}: Unit a.mount not found.\\x1b[31m",
        ),
        (
            ScriptedOutcome(active="inactive", carried_out=False, error="the name is the system's own"),
            f"Unit web.service failed {ON_M1}: the name is the system's own",
        ),
    ],
)
def test_a_unit_that_fails_exits_with_1_and_the_reason(
    fleetctl: Fleetctl, cluster: ScriptedCluster, outcome: ScriptedOutcome, complaint: str
) -> None:
    cluster.add("web.service")
    cluster.outcomes["web.service"] = outcome
    result = fleetctl("start", "web")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == f"Error waiting for units: {complaint}\n"


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (
            infeasible((RejectionKind.METADATA, "region=eu", 2), (RejectionKind.CONFLICT, "api.service", 1)),
            "cannot be placed: no machine fits: metadata region=eu missing (2 machines), conflicts with api.service "
            "(1 machine). It starts as soon as one fits",
        ),
        (ScriptedOutcome(machine=None, reason=NO_MACHINES), "cannot be placed: there is no machine. It starts as soon"),
        (
            ScriptedOutcome(machine=None, reason=WaitingForRoom("c@1.service", "m1")),
            "waits for c@1.service to stop on m1",
        ),
    ],
)
def test_an_unplaced_unit_is_explained_at_once_and_waited_for(
    fleetctl: Fleetctl, cluster: ScriptedCluster, outcome: ScriptedOutcome, reason: str
) -> None:
    cluster.add("web.service")
    cluster.outcomes["web.service"] = outcome
    result = fleetctl("start", "--block-attempts=1", "web")
    notice, late, last = result.stderr.splitlines()
    assert (result.status, result.stdout) == (1, "")
    assert notice.startswith(f"Unit web.service {reason}")
    waits = notice.removeprefix("Unit web.service ").removesuffix(".")
    what = f"timed out waiting for unit web.service to report state launched: it {waits}"
    assert (late, last) == (f"Error waiting for units: {what}", f"Error waiting for unit states, exit status: {what}")


def test_a_unit_starts_once_a_machine_takes_it(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service")
    cluster.outcomes["web.service"] = NO_SSD

    def add_disk(method: str, path: str) -> None:
        if len(cluster.requests) == 12:
            del cluster.outcomes["web.service"]
            cluster.reconsider("web.service")

    cluster.intercept = add_disk
    result = fleetctl("start", "web")
    assert (result.status, result.stdout) == (0, f"Unit web.service launched {ON_M1}\n")
    assert result.stderr == (
        "Unit web.service cannot be placed: no machine fits: metadata disk=ssd missing (2 machines). "
        "It starts as soon as one fits.\n"
    )


@pytest.mark.covers("3.7.3")
def test_a_unit_that_fails_does_not_hide_the_others(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    for name in ("a.service", "b.service", "c.service"):
        cluster.add(name)
    cluster.outcomes["b.service"] = ScriptedOutcome(active="failed", sub="failed")
    result = fleetctl("start", "a", "b", "c")
    assert result.status == 1
    assert result.stdout == f"Unit a.service launched {ON_M1}\nUnit c.service launched {ON_M1}\n"
    assert result.stderr.startswith("Error waiting for units: Unit b.service failed")


@pytest.mark.covers("3.7.3", "10.2.9")
def test_one_request_polls_all_units(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    names = [f"web@{number:03}.service" for number in range(60)]
    for name in names:
        cluster.add(name)
    result = fleetctl("start", *names)
    assert (result.status, len(result.stdout.splitlines())) == (0, 60)
    assert sum(request == ("GET", "/fleet/v2/units") for request in cluster.requests) < 10


@pytest.mark.covers("3.7.1", "3.7.4", "3.8.4", "3.8.19", "9.10", "10.2.4", "10.2.18")
def test_a_unit_that_never_becomes_active_times_out(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service")
    cluster.outcomes["web.service"] = ScriptedOutcome(active="activating", sub="start-pre")
    result = fleetctl("start", "--block-attempts=1", "web")
    what = f"timed out waiting for unit web.service to report state launched: it is activating (start-pre) {ON_M1}"
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == (f"Error waiting for units: {what}\nError waiting for unit states, exit status: {what}\n")


@pytest.mark.covers("10.2.19")
def test_the_wait_ends_when_the_unit_is_destroyed(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service")

    def destroy_after_start(method: str, path: str) -> None:
        if method == "GET" and cluster.operations:
            cluster.destroy("web.service")

    cluster.intercept = destroy_after_start
    result = fleetctl("start", "web")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == ("Error waiting for units: Unit web.service was destroyed while it was waited for\n")


def test_the_wait_ends_when_another_client_stops_the_unit(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service")

    def stop_after_start(method: str, path: str) -> None:
        if method == "GET" and cluster.operations:
            cluster.set_target("web.service", "loaded")

    cluster.intercept = stop_after_start
    assert fleetctl("start", "web").stderr == (
        "Error waiting for units: Unit web.service was set to loaded by another client while it was waited for\n"
    )


@pytest.mark.covers("3.7.5", "3.8.3", "3.8.4", "3.8.21", "10.2.6", "10.2.7")
def test_start_and_load_with_no_block_return_at_once(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service")
    cluster.outcomes["web.service"] = STUCK
    for command in ("load", "start"):
        result = fleetctl(command, "--no-block", "web")
        assert (result.status, result.stdout, result.stderr) == (0, f"Triggered unit web.service {command}\n", "")


@pytest.mark.covers("3.7.6", "3.8.23", "3.8.27", "3.8.28", "3.8.39")
@pytest.mark.parametrize("command", ["load", "start", "stop", "unload"])
def test_global_units_are_triggered_and_not_waited_for(
    fleetctl: Fleetctl, cluster: ScriptedCluster, command: str
) -> None:
    cluster.add("all.service", GLOBAL, target="inactive" if command in ("load", "start") else "launched")
    cluster.outcomes["all.service"] = STUCK
    result = fleetctl(command, "all")
    assert (result.status, result.stdout) == (0, f"Triggered global unit all.service {command}\n")
    done = {"stop": "stopped", "unload": "unloaded"}.get(command)
    assert result.stderr == (f"Successfully {done} units [].\n" if done else "")


@pytest.mark.covers("3.4.8", "3.8.18")
def test_a_template_cannot_be_started(fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path) -> None:
    (tmp_path / "web@.service").write_text("[Service]\nExecStart=/bin/true\n")
    result = fleetctl("start", "web@")
    assert (result.status, result.stdout) == (1, "Unit web@.service inactive\n")
    assert result.stderr == (
        'Error starting units: unit web@.service: Error 400: cannot activate template "web@.service"\n'
    )


# load


@pytest.mark.covers("3.8.12", "3.8.15")
def test_load_places_a_unit_on_a_machine(fleetctl: Fleetctl, cluster: ScriptedCluster, hello: Path) -> None:
    result = fleetctl("load", "hello")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout == f"Unit hello.service inactive\nUnit hello.service loaded {ON_M1}\n"


@pytest.mark.covers("3.8.12")
def test_load_waits_until_a_launched_unit_has_stopped(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="launched")
    cluster.outcomes["web.service"] = ScriptedOutcome(lingers=3)
    assert fleetctl("load", "web").stdout == f"Unit web.service loaded {ON_M1}\n"
    assert cluster.states["web.service"].active == "inactive"


@pytest.mark.covers("3.8.12", "3.8.14")
def test_loading_a_loaded_unit_does_nothing(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="loaded")
    assert fleetctl("load", "web").stdout == ""
    assert cluster.targets_asked == []


@pytest.mark.covers("P.5")
def test_loading_an_unplaced_unit_times_out(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service")
    cluster.outcomes["web.service"] = infeasible((RejectionKind.MACHINE_ID, "7", 2))
    result = fleetctl("load", "--block-attempts=1", "web")
    assert result.status == 1
    assert result.stderr.splitlines()[0] == (
        "Unit web.service cannot be placed: no machine fits: not machine 7 (2 machines). "
        "It is loaded as soon as one fits."
    )


@pytest.mark.covers("3.8.17")
@pytest.mark.parametrize(("command", "doing"), [("load", "loading"), ("start", "starting")])
def test_a_refused_target_state_exits_with_1(
    fleetctl: Fleetctl, cluster: ScriptedCluster, command: str, doing: str
) -> None:
    cluster.add("web.service")
    refusal = render_error(409, "being changed by others")
    cluster.intercept = lambda method, path: refusal if method == "PUT" else None
    result = fleetctl(command, "web")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == f"Error {doing} units: unit web.service: Error 409: being changed by others\n"


# stop, unload


@pytest.mark.covers("3.2.1", "3.8.26", "3.8.27", "9.13", "10.2.13")
def test_stop_returns_when_the_unit_has_stopped(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="launched")
    cluster.outcomes["web.service"] = ScriptedOutcome(lingers=3)
    result = fleetctl("stop", "web")
    assert (result.status, result.stdout) == (0, f"Unit web.service loaded {ON_M1}\n")
    assert result.stderr == "Successfully stopped units [web.service].\n"
    assert cluster.states["web.service"].active == "inactive"


def test_stop_stops_a_loaded_unit_that_runs(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="loaded")
    cluster.report("web.service", active="active", sub="running")  # started by its socket
    result = fleetctl("stop", "web")
    assert (result.status, result.stdout) == (0, f"Unit web.service loaded {ON_M1}\n")
    assert result.stderr == "Successfully stopped units [web.service].\n"
    assert cluster.targets_asked == [("web.service", "loaded")]
    assert cluster.states["web.service"].active == "inactive"


def test_load_leaves_a_loaded_unit_that_runs(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="loaded")
    cluster.report("web.service", active="active", sub="running")  # started by its socket
    result = fleetctl("load", "web")
    assert (result.status, result.stdout, result.stderr, cluster.targets_asked) == (0, "", "", [])


@pytest.mark.covers("3.2.1", "3.5.4", "3.8.28")
def test_unload_returns_when_no_machine_has_the_unit(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    for name in ("a.service", "b.service"):
        cluster.add(name, target="launched")
    cluster.outcomes["b.service"] = ScriptedOutcome(lingers=3)
    result = fleetctl("unload", "b", "a", "b")
    assert (result.status, result.stdout) == (0, "Unit a.service inactive\nUnit b.service inactive\n")
    assert result.stderr == "Successfully unloaded units [b.service a.service].\n"
    assert cluster.states == {}


@pytest.mark.covers("3.8.25", "3.8.28", "10.2.13")
@pytest.mark.parametrize(("command", "state"), [("stop", "loaded"), ("unload", "inactive")])
def test_stop_and_unload_skip_units_in_that_state_already(
    fleetctl: Fleetctl, cluster: ScriptedCluster, command: str, state: str
) -> None:
    cluster.add("web.service", target=state)
    result = fleetctl(command, "web")
    done = {"stop": "stopped", "unload": "unloaded"}[command]
    assert (result.status, result.stdout, result.stderr) == (0, "", f"Successfully {done} units [].\n")
    assert cluster.targets_asked == []


@pytest.mark.covers("3.8.24", "10.2.10")
def test_stop_refuses_an_inactive_unit_and_stops_the_others(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("a.service", target="launched")
    cluster.add("b.service", target="inactive")
    cluster.add("c.service", target="launched")
    result = fleetctl("stop", "a", "b", "c")
    assert result.status == 1
    assert result.stdout == f"Unit a.service loaded {ON_M1}\nUnit c.service loaded {ON_M1}\n"
    assert result.stderr == (
        "Unable to stop unit b.service in state inactive\nSuccessfully stopped units [a.service c.service].\n"
    )


@pytest.mark.covers("3.7.3", "10.2.12")
@pytest.mark.parametrize(("command", "state"), [("stop", "loaded"), ("unload", "inactive")])
def test_an_unplaced_unit_can_be_stopped_and_unloaded(
    fleetctl: Fleetctl, cluster: ScriptedCluster, command: str, state: str
) -> None:
    cluster.outcomes["web.service"] = infeasible((RejectionKind.MACHINE_ID, "7", 2))
    cluster.add("web.service", target="launched")
    result = fleetctl(command, "web")
    assert (result.status, result.stdout) == (0, f"Unit web.service {state}\n")
    assert cluster.targets == {"web.service": state}


@pytest.mark.covers("3.7.5", "3.8.5", "3.8.6")
@pytest.mark.parametrize("command", ["stop", "unload"])
def test_stop_and_unload_with_no_block_return_at_once(
    fleetctl: Fleetctl, cluster: ScriptedCluster, command: str
) -> None:
    cluster.add("web.service", target="launched")
    cluster.outcomes["web.service"] = STUCK
    result = fleetctl(command, "--no-block", "web")
    assert (result.status, result.stdout, result.stderr) == (0, f"Triggered unit web.service {command}\n", "")


@pytest.mark.covers("3.7.1", "3.7.4", "3.8.5", "3.8.27", "3.8.28", "10.2.18")
@pytest.mark.parametrize(("command", "state"), [("stop", "loaded"), ("unload", "inactive")])
def test_a_stop_that_times_out_says_what_still_runs(
    fleetctl: Fleetctl, cluster: ScriptedCluster, command: str, state: str
) -> None:
    cluster.add("web.service", target="launched")
    cluster.outcomes["web.service"] = ScriptedOutcome(lingers=10000)
    result = fleetctl(command, "--block-attempts", "1", "web")
    what = f"timed out waiting for unit web.service to report state {state}: it is still active (running) {ON_M1}"
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == (f"Error waiting for units: {what}\nFailed to {command} units [web.service]. err: {what}\n")


@pytest.mark.covers("10.2.11")
def test_a_refused_unload_does_not_stop_the_others(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("a.service", target="launched")
    cluster.add("b.service", target="launched")
    cluster.contest("a.service")
    result = fleetctl("unload", "a", "b")
    assert (result.status, result.stdout) == (1, "Unit b.service inactive\n")
    assert result.stderr == (
        'Error unloading units: unit a.service: Error 409: unit "a.service" is being changed by other clients at the '
        "same time: try again\n"
        "Successfully unloaded units [b.service].\n"
    )


# destroy


@pytest.mark.covers("3.8.29", "3.8.30", "10.2.3")
def test_destroy_returns_when_no_machine_has_the_units(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    for name in ("a.service", "b.service", "c.service"):
        cluster.add(name, target="launched")
    cluster.outcomes["a.service"] = ScriptedOutcome(lingers=3)
    result = fleetctl("destroy", "a", "b")
    assert (result.status, result.stdout, result.stderr) == (0, "Destroyed b.service\nDestroyed a.service\n", "")
    assert list(cluster.units) == ["c.service"]
    assert list(cluster.states) == ["c.service"]


@pytest.mark.covers("3.8.7", "3.8.30", "10.2.3")
def test_destroy_with_no_block_sends_only_the_operation(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="launched")
    result = fleetctl("destroy", "--no-block", "web")
    assert (result.status, result.stdout, result.stderr) == (0, "Destroyed web.service\n", "")
    assert cluster.requests[-1] == ("DELETE", "/fleet/v1/units/web.service")


@pytest.mark.covers("3.8.7")
def test_a_destroyed_unit_that_does_not_stop_times_out(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="launched")
    cluster.outcomes["web.service"] = STUCK
    result = fleetctl("destroy", "--block-attempts=1", "web")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == (
        "Error waiting for units: timed out waiting for destroyed unit web.service to stop; it goes once it has\n"
    )


@pytest.mark.covers("3.8.29")
def test_a_unit_that_another_client_destroyed_first_is_no_error(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service")
    cluster.intercept = lambda method, path: cluster.destroy("web.service") if method == "DELETE" else None
    assert fleetctl("destroy", "web").status == 0


@pytest.mark.covers("3.8.29")
def test_a_refused_destroy_does_not_stop_the_others(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("a.service")
    cluster.add("b.service")
    cluster.contest("a.service")
    result = fleetctl("destroy", "a", "b")
    assert (result.status, result.stdout) == (1, "Destroyed b.service\n")
    assert result.stderr.startswith("Error destroying units: unit a.service: Error 409: ")
