"""The demo's acts about changes and reboots, as `make demo ACT=change` plays them: they check what they show."""

from collections.abc import Callable

from contrib.demo.change import Change
from contrib.demo.reboot import Reboot
from contrib.demo.services import Services
from contrib.testbed import Cluster


def test_a_change_a_revert_and_a_drain_under_traffic_fail_no_request(new_cluster: Callable[..., Cluster]) -> None:
    Change(new_cluster(machines=3)).play()


def test_all_machines_are_rebooted_under_traffic_and_no_request_fails(new_cluster: Callable[..., Cluster]) -> None:
    Reboot(new_cluster(machines=3)).play()


def test_containers_behind_haproxy_are_changed_moved_and_killed_and_no_request_fails(
    new_cluster: Callable[..., Cluster],
) -> None:
    Services(new_cluster(machines=3, config=dict(Services.config))).play()
