"""The demo's act about changes, as `make demo ACT=change` plays it: it checks what it shows."""

from collections.abc import Callable

from contrib.demo.change import Change
from contrib.testbed import Cluster


def test_a_change_a_revert_and_a_drain_under_traffic_fail_no_request(new_cluster: Callable[..., Cluster]) -> None:
    Change(new_cluster(machines=3)).play()
