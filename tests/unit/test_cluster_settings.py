"""Settings of the cluster: how they are changed, what they mean, and which units a change of them affects."""

import pytest

from fleetd.config.cluster_settings import (
    CLUSTER_OPTIONS,
    allowed_usage,
    failover_policy,
    parse_settings,
    reboot_policy,
    refuse_value,
)
from fleetd.config.values import parse_duration
from fleetd.model.cluster_settings import ClusterSetting, ClusterSettings, edit_settings
from fleetd.model.machine import MachineMode
from fleetd.model.quota import Usage
from fleetd.model.reboot_window import parse_reboot_windows
from fleetd.registry.records import CLUSTER_SETTINGS
from fleetd.scheduler.affected import set_cluster_settings
from fleetd.scheduler.failover_delays import FailoverPolicy
from fleetd.scheduler.reboot_policy import ONE_AT_A_TIME, RebootPolicy
from tests.unit.cluster_builder import A, Cluster, after_partition, settled_cluster

SET = ClusterSettings({"failover_delay": ClusterSetting("45s", "ann", 7.0)})
DEFAULTS = FailoverPolicy(delay_s=1.0, rerun=False, handover_timeout_s=30.0)


def settings_of(**values: str) -> ClusterSettings:
    return ClusterSettings({name: ClusterSetting(value) for name, value in values.items()})


@pytest.mark.parametrize(
    ("new", "unset", "expected"),
    [
        ({"max_units": ClusterSetting("9")}, (), {**SET.values, "max_units": ClusterSetting("9")}),
        ({"failover_delay": ClusterSetting("1h", "bob")}, (), {"failover_delay": ClusterSetting("1h", "bob")}),
        ({"failover_delay": ClusterSetting("45s", "bob", 8.0)}, (), SET.values),
        ({}, ("failover_delay",), {}),
        ({}, ("max_units",), SET.values),
    ],
)
def test_settings_are_set_and_unset(
    new: dict[str, ClusterSetting], unset: tuple[str, ...], expected: dict[str, ClusterSetting]
) -> None:
    assert edit_settings(SET, new, unset) == ClusterSettings(expected)


def test_settings_stand_in_order_of_their_names() -> None:
    after = edit_settings(SET, {"a": ClusterSetting("1"), "z": ClusterSetting("2")}, ())
    assert list(after.values) == ["a", "failover_delay", "z"]


def test_the_settings_of_the_cluster_are_these_options() -> None:
    assert sorted(CLUSTER_OPTIONS) == [
        "failover_delay",
        "handover_timeout",
        "max_units",
        "max_units_bytes",
        "reboot_slots",
        "reboot_when_required",
        "reboot_window",
        "rerun_after_failover",
    ]


def test_settings_win_over_what_is_configured() -> None:
    assert failover_policy(ClusterSettings(), DEFAULTS) == DEFAULTS
    settings = settings_of(failover_delay="45s", rerun_after_failover="true", handover_timeout="1min")
    assert failover_policy(settings, DEFAULTS) == FailoverPolicy(45.0, True, 60.0)
    assert allowed_usage(settings, Usage(1, 2)) == Usage(1, 2)
    assert allowed_usage(settings_of(max_units="7", max_units_bytes="1K"), Usage(1, 2)) == Usage(7, 1024)


def test_the_settings_of_reboots_win_over_what_is_configured() -> None:
    assert reboot_policy(ClusterSettings(), ONE_AT_A_TIME) == ONE_AT_A_TIME
    settings = settings_of(reboot_window="Sat 02:00 4h", reboot_slots="2", reboot_when_required="true")
    assert reboot_policy(settings, ONE_AT_A_TIME) == RebootPolicy(parse_reboot_windows("Sat 02:00 4h"), 2, True)


def test_a_window_that_never_opens_is_no_value() -> None:
    assert refuse_value("reboot_window", "Sat 25:00 4h") == (
        "reboot_window: 'Sat 25:00 4h' never opens: there is no time of day 25:00"
    )


def test_what_a_later_version_wrote_is_passed_over() -> None:
    assert parse_settings(settings_of(failover_delay="soon", unheard_of="1", max_units="3")) == {"max_units": 3}


def test_a_wrong_value_gets_the_words_that_fleet_conf_gets() -> None:
    assert refuse_value("failover_delay", "45s") == ""
    with pytest.raises(ValueError, match="needs a unit") as words:
        parse_duration(0.0)("45")
    assert refuse_value("failover_delay", "45") == f"failover_delay: {words.value}"


def affected_by_a_change(cluster: Cluster) -> list[str]:
    return sorted(set_cluster_settings(cluster.snapshot, SET).units)


def test_a_change_affects_no_unit_that_is_where_it_belongs() -> None:
    cluster = settled_cluster("m1", "m2", a="", b="")
    assert affected_by_a_change(cluster) == []
    assert cluster.snapshot.cluster_settings == SET
    cluster.write(CLUSTER_SETTINGS, (), SET)
    cluster.write(CLUSTER_SETTINGS, (), None)
    assert cluster.snapshot.cluster_settings == ClusterSettings()


def test_a_change_affects_what_waits_for_an_absent_machine_or_one_that_is_switched_off() -> None:
    cluster = settled_cluster("m1", "m2", "m3", a="", b="", c="")
    cluster.die("m1")
    cluster.machine("m2", MachineMode.LEAVING, shuts_down=True)
    assert affected_by_a_change(cluster) == ["a.service", "b.service"]


def test_a_change_affects_what_waits_for_its_replacement() -> None:
    assert affected_by_a_change(after_partition()) == [A]


def test_a_longer_delay_is_waited_for_and_a_shorter_one_ends_the_wait() -> None:
    cluster = settled_cluster("m1", "m2", a="")
    cluster.policy = failover_policy(SET, DEFAULTS)
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m1"}
    cluster.wait(20)
    cluster.policy = DEFAULTS
    cluster.mark_changed(set_cluster_settings(cluster.snapshot, None))
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}
