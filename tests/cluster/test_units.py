"""Units on real machines: started, stopped, replaced, destroyed; and those that fail."""

import time

import pytest

from tests.cluster.operator import ONESHOT, SLEEPER, Operator


@pytest.mark.covers("2.2.2", "3.8.13", "9.1", "9.12", "P.6")
def test_a_started_unit_is_a_running_process_when_the_command_returns(operator: Operator) -> None:
    result = operator.start({"one.service": SLEEPER})
    machine = operator.machine_of("one.service")
    assert f"Unit one.service launched on {machine.id[:8]}.../{machine.address}" in result.stdout
    assert machine.main_pid("one.service") > 1


@pytest.mark.covers("2.9.1")
def test_thirty_units_spread_evenly(operator: Operator) -> None:
    operator.start({f"many-{number}.service": SLEEPER for number in range(30)})
    placed = operator.placed()
    share = [sum(machines == [machine.id] for machines in placed.values()) for machine in operator.cluster.machines]
    assert share == [10, 10, 10]


@pytest.mark.covers("9.13")
def test_a_stopped_unit_stays_loaded_and_starts_again_on_its_machine(operator: Operator) -> None:
    operator.start({"one.service": SLEEPER})
    machine = operator.machine_of("one.service")
    result = operator.cluster.fleetctl("stop", "one.service")
    assert "Successfully stopped units [one.service]." in result.stderr
    assert machine.main_pid("one.service") == 0
    assert machine.path("/run/fleet/units/one.service").exists()
    operator.cluster.fleetctl("start", "one.service")
    assert operator.machine_of("one.service") is machine
    assert machine.main_pid("one.service") > 1


@pytest.mark.covers("2.10.6")
def test_an_unloaded_unit_stays_submitted_and_leaves_its_machine(operator: Operator) -> None:
    operator.start({"one.service": SLEEPER})
    machine = operator.machine_of("one.service")
    operator.cluster.fleetctl("unload", "one.service")
    assert machine.main_pid("one.service") == 0
    assert not machine.path("/run/fleet/units/one.service").exists()
    assert "one.service" in operator.cluster.fleetctl("list-unit-files").stdout


@pytest.mark.covers("2.10.7", "3.8.30", "10.7.11", "P.8")
def test_destroy_waits_for_execstop_before_it_removes_the_file(operator: Operator) -> None:
    stopping = (
        "[Service]\nExecStart=/bin/sleep infinity\n"
        "ExecStop=/bin/sh -c 'sleep 2; test -e /run/fleet/units/last.service && touch /var/lib/last-words'\n"
        "ExecStopPost=/bin/sh -c 'test -e /run/fleet/units/last.service && touch /var/lib/post-words'\n"
    )
    operator.start({"last.service": stopping})
    machine = operator.machine_of("last.service")
    operator.cluster.fleetctl("destroy", "last.service")
    assert machine.path("/var/lib/last-words").exists()
    assert machine.path("/var/lib/post-words").exists()
    assert not machine.path("/run/fleet/units/last.service").exists()
    assert not machine.path("/run/systemd/system/last.service").is_symlink()
    assert operator.cluster.fleetctl("list-units", "--no-legend").stdout == ""


@pytest.mark.covers("S.13")
def test_a_unit_recreated_at_once_runs_the_new_content(operator: Operator) -> None:
    slow = "ExecStop=/bin/sh -c 'sleep 2; test -e /run/fleet/units/again.service && touch /var/lib/stopped-first'\n"
    operator.start({"again.service": "[Service]\nExecStart=/bin/sleep 1001\n" + slow})
    former = operator.machine_of("again.service")
    operator.cluster.fleetctl("destroy", "--no-block", "again.service")
    operator.start({"again.service": "[Service]\nExecStart=/bin/sleep 1002\n"})
    operator.wait_until_placed("again.service")
    assert former.path("/var/lib/stopped-first").exists()
    machine = operator.machine_of("again.service")
    command = machine.path(f"/proc/{machine.main_pid('again.service')}/cmdline").read_bytes()
    assert command == b"/bin/sleep\x001002\x00"


@pytest.mark.covers("2.10.5", "P.4")
def test_a_changed_file_is_reported_and_replace_applies_it_in_place(operator: Operator) -> None:
    operator.start({"one.service": "[Service]\nExecStart=/bin/sleep 1001\n"})
    machine = operator.machine_of("one.service")
    before = machine.main_pid("one.service")
    changed = {"one.service": "[Service]\nExecStart=/bin/sleep 1002\n"}
    warned = operator.start(changed)
    assert "differs from local unit file" in warned.stderr
    assert machine.main_pid("one.service") == before
    operator.start(changed, "--replace")
    assert operator.machine_of("one.service") is machine
    command = machine.path(f"/proc/{machine.main_pid('one.service')}/cmdline").read_bytes()
    assert command == b"/bin/sleep\x001002\x00"


@pytest.mark.covers("1.3.4", "1.3.9", "P.15")
def test_instances_spread_over_the_machines_and_know_their_names(operator: Operator) -> None:
    (template,) = operator.write({"web@.service": "[Service]\nExecStart=/bin/sh -c 'echo I am %i; sleep infinity'\n"})
    operator.cluster.fleetctl("submit", template)
    operator.cluster.fleetctl("start", "web@1.service", "web@2.service", "web@3.service")
    machines = {operator.machine_of(f"web@{number}.service").id for number in (1, 2, 3)}
    assert len(machines) == 3
    assert "I am 2" in operator.machine_of("web@2.service").journal("web@2.service")


@pytest.mark.covers("10.2.4", "P.10", "R.5")
def test_a_completed_oneshot_is_a_success_and_runs_once(operator: Operator) -> None:
    counting = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo ran >> /var/lib/count'\n"
    operator.start({"once.service": counting})
    counts = [machine.path("/var/lib/count") for machine in operator.cluster.machines]
    (count,) = [path for path in counts if path.exists()]
    for machine in operator.cluster.machines:
        machine.run(["systemctl", "restart", "fleet.service"])
    operator.cluster.wait_ready()
    time.sleep(1)
    assert count.read_text() == "ran\n"
    count.unlink()


@pytest.mark.covers("3.8.20", "P.6", "P.18")
def test_start_says_why_a_unit_failed_with_its_last_log_lines(operator: Operator) -> None:
    failing = "[Service]\nExecStart=/bin/sh -c 'echo the disk is on fire; exit 7'\nRestart=no\n"
    result = operator.start({"bad.service": failing}, check=False)
    assert result.returncode == 1
    assert "bad.service" in result.stderr
    assert "7" in result.stderr
    assert "the disk is on fire" in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[Service]\nType=nonsense-but-no-exec=1\n", "bad"),
        ("[Service]\nType=exec\nExecStart=/no/such/program\n", "203"),
        ("[Unit]\nRequires=not-there.service\nAfter=not-there.service\n[Service]\nExecStart=/bin/true\n", "not-there"),
    ],
)
def test_a_refusal_of_systemd_is_reported_and_affects_no_other_unit(operator: Operator, text: str, words: str) -> None:
    result = operator.start({"fine.service": SLEEPER, "poor.service": text}, check=False)
    assert result.returncode == 1
    assert "poor.service" in result.stderr
    assert words in result.stderr
    operator.wait_until_placed("fine.service")


@pytest.mark.covers("P.7")
def test_units_that_need_each_other_start_together(operator: Operator) -> None:
    pair = {
        "left.service": "[Unit]\nRequires=right.service\nAfter=right.service\n"
        "[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\nMachineOf=right.service\n",
        "right.service": SLEEPER,
    }
    operator.start(pair)
    assert operator.machine_of("left.service") is operator.machine_of("right.service")


def test_a_timer_starts_its_service_on_their_machine(operator: Operator) -> None:
    files = operator.write(
        {
            "tick.timer": "[Timer]\nOnActiveSec=1s\nAccuracySec=100ms\n",
            "tick.service": "[Service]\nType=oneshot\nExecStart=/bin/touch /var/lib/ticked\n"
            "[X-Fleet]\nMachineOf=tick.timer\n",
        }
    )
    operator.cluster.fleetctl("load", *files)
    operator.cluster.fleetctl("start", "tick.timer")
    machine = operator.machine_of("tick.timer")
    operator.cluster.wait_until("the timer has elapsed", machine.path("/var/lib/ticked").exists)


@pytest.mark.covers("6.2.1")
def test_an_install_section_is_applied_and_undone(operator: Operator) -> None:
    operator.start({"wanted.service": SLEEPER + "\n[Install]\nWantedBy=multi-user.target\n"})
    machine = operator.machine_of("wanted.service")
    link = machine.path("/run/systemd/system/multi-user.target.wants/wanted.service")
    assert link.is_symlink()
    operator.cluster.fleetctl("destroy", "wanted.service")
    assert not link.is_symlink()


@pytest.mark.covers("R.7")
def test_a_unit_that_would_shadow_one_of_the_system_is_refused(operator: Operator) -> None:
    result = operator.start({"ssh.service": SLEEPER}, check=False)
    assert result.returncode == 1
    assert "ssh.service" in result.stderr
    assert "/lib/systemd/system/ssh.service" in result.stderr
    assert operator.cluster.fleetctl("list-unit-files", "--no-legend").stdout == ""


def test_a_completed_oneshot_runs_again_on_a_new_start(operator: Operator) -> None:
    operator.start({"once.service": ONESHOT + "ExecStart=/bin/sh -c 'echo ran >> /var/lib/count-again'\n"})
    operator.cluster.fleetctl("start", "once.service")
    texts = [machine.path("/var/lib/count-again") for machine in operator.cluster.machines]
    (count,) = [path for path in texts if path.exists()]
    assert count.read_text() == "ran\nran\n"
    count.unlink()
