"""What operators set on a running cluster: a cordon of a machine, and settings of the whole cluster."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from contrib.testbed import Cluster
from tests.cluster.operator import RECORDER, SLEEPER, Operator, recorded_times, with_fleet

TTL_S = 4


def test_a_cordoned_machine_keeps_its_units_over_a_restart_of_fleetd_and_gets_only_global_ones(
    operator: Operator,
) -> None:
    operator.start({"old.service": SLEEPER})
    cordoned = operator.machine_of("old.service")
    other = operator.other_machine(cordoned)
    pid = cordoned.main_pid("old.service")
    operator.cluster.fleetctl("cordon", cordoned.id[:8], "--why=disk", on=other)
    try:
        cordoned.run(["systemctl", "restart", "fleet.service"])
        new = [f"new{number}.service" for number in range(4)]
        operator.start(dict.fromkeys(new, SLEEPER), on=other)
        operator.start({"log.service": with_fleet("Global=true")}, on=other)
        assert cordoned.id not in {machine for unit in new for machine in operator.placed()[unit]}
        assert operator.placed()["log.service"] == sorted(machine.id for machine in operator.cluster.machines)
        assert cordoned.main_pid("old.service") == pid
        pinned = with_fleet(f"MachineID={cordoned.id}")
        answer = operator.start({"pinned.service": pinned}, "--block-attempts=1", on=other, check=False)
        assert answer.returncode == 1
        assert "machine is cordoned: disk (1 machine)" in answer.stderr
        listed = operator.cluster.fleetctl("list-machines", "--output=json", on=other).stdout
        cordon = {machine["machine"]: machine["cordon"] for machine in json.loads(listed)}
        assert (cordon[cordoned.id]["why"], cordon[cordoned.id]["by"], cordon[other.id]) == ("disk", "root", None)
    finally:
        operator.cluster.fleetctl("uncordon", cordoned.id, on=other)
    operator.wait_until_placed("pinned.service")
    assert operator.machine_of("pinned.service") is cordoned


def test_a_setting_of_the_cluster_counts_at_once_for_a_unit_that_waits(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    operator = Operator(new_cluster(machines=2, config={"agent_ttl": f"{TTL_S}s"}), tmp_path)
    operator.start({"web.service": RECORDER})
    lost = operator.machine_of("web.service")
    survivor = operator.other_machine(lost)
    operator.cluster.fleetctl("settings", "set", "failover_delay=1h", on=survivor)
    lost.power_cut()
    waits = f"waits for machine {lost.id[:8]} to come back, until "
    operator.cluster.wait_until(
        waits, lambda: waits in operator.reports(on=survivor)["web.service"].get("reason", ""), 60
    )
    time.sleep(TTL_S)
    assert recorded_times(survivor, "began", "web.service") == []
    listed = operator.cluster.fleetctl("settings", "--output=json", on=survivor).stdout
    shown = {setting["setting"]: setting for setting in json.loads(listed)}
    assert (shown["failover_delay"]["value"], shown["failover_delay"]["by"]) == ("1h", "root")
    operator.cluster.fleetctl("settings", "unset", "failover_delay", on=survivor)
    operator.cluster.wait_until("it runs elsewhere", lambda: recorded_times(survivor, "began", "web.service") != [], 10)
