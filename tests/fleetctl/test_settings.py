"""settings: list, get, set and unset settings of the cluster."""

import json

import pytest

from fleetd.model.cluster_settings import ClusterSetting, ClusterSettings
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster

SET = ClusterSettings({"failover_delay": ClusterSetting("45s", "ann", 1_800_014_400.0)})


def test_the_list_says_where_each_value_is_from(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.set_cluster_settings(SET)
    rows = [line.split("\t") for line in fleetctl("settings").stdout.splitlines()]
    cells = [[cell for cell in row if cell] for row in rows]
    assert cells[0] == ["SETTING", "VALUE", "FROM"]
    assert cells[1] == ["failover_delay", "45s", "set by ann on 2027-01-15 12:00:00 UTC"]
    assert ["rerun_after_failover", "false", "default"] in cells
    first, *_ = json.loads(fleetctl("settings", "--output=json").stdout)
    assert first == {
        "setting": "failover_delay",
        "value": "45s",
        "from": "cluster",
        "machine": None,
        "by": "ann",
        "at": 1_800_014_400.0,
    }


def test_one_is_set_read_and_unset(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    result = fleetctl("settings", "set", "failover_delay=1min", "max_units=7")
    assert result.stdout == "Set failover_delay=1min for the cluster\nSet max_units=7 for the cluster\n"
    assert fleetctl("settings", "get", "failover_delay").stdout == "1min\n"
    result = fleetctl("settings", "unset", "failover_delay", "max_units")
    assert result.stdout == "Unset failover_delay: now 0s (default)\nUnset max_units: now 50000 (default)\n"
    assert cluster.cluster_settings == ClusterSettings()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["set", "failover_delay=45"], 1, "failover_delay: '45' is not a duration: it needs a unit"),
        (["set", "failover=45s"], 1, 'unknown setting "failover": there are failover_delay, '),
        (["unset", "failover"], 1, 'unknown setting "failover"'),
        (["get", "failover"], 1, "There is no setting failover: fleetctl settings lists them\nDid you mean this?"),
        (["get", "failover_delay", "max_units"], 2, "settings get takes one name"),
        (["set", "failover_delay"], 2, "failover_delay is not NAME=VALUE"),
        (["set", "max_units=1", "max_units=2"], 2, "max_units is given twice"),
        (["set"], 2, "settings set needs the name of a setting"),
        (["change", "max_units=1"], 2, "change is neither get, set nor unset"),
    ],
)
def test_what_is_wrong_is_refused_and_changes_nothing(
    fleetctl: Fleetctl, cluster: ScriptedCluster, words: list[str], status: int, said: str
) -> None:
    cluster.set_cluster_settings(SET)
    result = fleetctl("settings", *words)
    assert (result.status, result.stdout) == (status, "")
    assert said in result.stderr
    assert cluster.cluster_settings == SET
