"""Settings of the cluster by the API: where each value is from, changes of them, and what is refused."""

import json
from typing import Any

import pytest

from fleetd.model.cluster_settings import ClusterSetting, ClusterSettings
from fleetd.model.machine import Capability, Machine
from fleetd.model.quota import Usage
from fleetd.registry.records import Leader
from tests.api.conftest import JSON, Fleet

SETTINGS = "/fleet/v2/settings"
AT = 1_800_014_400.0
ALL = [
    "failover_delay",
    "handover_timeout",
    "max_units",
    "max_units_bytes",
    "reboot_slots",
    "reboot_when_required",
    "reboot_window",
    "rerun_after_failover",
]


@pytest.fixture
async def cluster(fleet: Fleet) -> Fleet:
    """m1 leads; the API is that of m2."""
    able = {Capability.CLUSTER_SETTINGS: True}
    asked = Machine("m2", capabilities=able, configured={"max_units": "20", "failover_delay": "2s"})
    fleet.reconfigure(unix_now=lambda: AT, machine=lambda: asked, allowed_usage=Usage(20, 10_000))
    leading = Machine("m1", capabilities=able, configured={"failover_delay": "1min", "max_units": "10"})
    await fleet.put(leading, "m1")
    await fleet.put(asked, "m2")
    await fleet.put(Leader("m1", "t"))
    return fleet


async def shown(fleet: Fleet) -> dict[str, Any]:
    found = json.loads((await fleet.ask(f"GET {SETTINGS}")).body)["settings"]
    assert [setting["name"] for setting in found] == sorted(setting["name"] for setting in found)
    return {setting.pop("name"): setting for setting in found}


async def change(fleet: Fleet, set_: dict[str, str], unset: tuple[str, ...] = (), by: str = "ann") -> None:
    body = {"set": set_, "unset": unset}
    response = await fleet.ask(f"PATCH {SETTINGS}", body, (*JSON, ("Fleet-User", by)))
    assert (response.status, response.body) == (204, b"")


async def test_what_is_not_set_is_from_the_fleet_conf_of_the_leader_or_of_the_one_asked_or_the_default(
    cluster: Fleet,
) -> None:
    found = await shown(cluster)
    assert sorted(found) == ALL
    assert found["failover_delay"] == {"value": "1min", "source": "fleet.conf", "machine": "m1"}
    assert found["max_units"] == {"value": "20", "source": "fleet.conf", "machine": "m2"}
    assert found["rerun_after_failover"] == {"value": "false", "source": "default"}


async def test_without_a_leader_its_settings_are_the_defaults(fleet: Fleet) -> None:
    assert (await shown(fleet))["failover_delay"] == {"value": "0s", "source": "default"}
    await fleet.put(Leader("gone", "t"))
    assert (await shown(fleet))["failover_delay"] == {"value": "0s", "source": "default"}


async def test_what_is_set_wins_and_says_by_whom_and_when_until_it_is_unset(cluster: Fleet) -> None:
    await change(cluster, {"failover_delay": "45s", "max_units": "7"})
    found = await shown(cluster)
    assert found["failover_delay"] == {"value": "45s", "source": "cluster", "by": "ann", "at": AT}
    assert found["max_units"]["value"] == "7"
    await change(cluster, {"failover_delay": "45s"}, ("max_units",), by="bob")
    found = await shown(cluster)
    assert found["failover_delay"]["by"] == "ann"
    assert found["max_units"]["source"] == "fleet.conf"
    await change(cluster, {}, ("failover_delay", "max_units"))
    assert await cluster.registry.store.get(f"{cluster.registry.prefix}cluster-settings") is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"set": {"failover_delay": "45"}}, "failover_delay: '45' is not a duration: it needs a unit; write 45s for"),
        ({"set": {"max_units": "7", "max_units_bytes": "none"}}, "max_units_bytes: 'none' is not a number of bytes"),
        ({"set": {"agent_ttl": "10s"}}, f'unknown setting "agent_ttl": there are {", ".join(ALL)}'),
        ({"unset": ["x"]}, 'unknown setting "x": there are failover_delay, '),
        ({"set": {"max_units": "7"}, "unset": ["max_units"]}, "max_units: either set it or unset it"),
        ({"set": ["max_units"]}, "unable to decode body: "),
    ],
)
async def test_a_wrong_change_is_refused_as_a_whole(cluster: Fleet, body: Any, message: str) -> None:
    status, said = await cluster.refused(f"PATCH {SETTINGS}", body)
    assert (status, said[: len(message)]) == (400, message)
    assert await cluster.registry.cluster_settings() == ClusterSettings()


async def test_a_machine_whose_fleetd_would_pass_over_it_forbids_to_set_but_not_to_unset(cluster: Fleet) -> None:
    await change(cluster, {"max_units": "7"})
    await cluster.put(Machine("m3", version="0.9"), "m3")
    status, said = await cluster.refused(f"PATCH {SETTINGS}", {"set": {"max_units": "8"}})
    assert (status, said.partition(":")[0]) == (409, "settings of the cluster cannot be used yet")
    await change(cluster, {}, ("max_units",))
    assert await cluster.registry.cluster_settings() == ClusterSettings()


async def test_a_setting_of_a_later_version_is_shown_and_can_be_unset(cluster: Fleet) -> None:
    await cluster.put(ClusterSettings({"warp": ClusterSetting("9", "eve", 7.0)}))
    assert (await shown(cluster))["warp"] == {"value": "9", "source": "cluster", "by": "eve", "at": 7.0}
    await change(cluster, {}, ("warp",))
    assert sorted(await shown(cluster)) == ALL


async def test_settings_of_a_later_format_are_left_alone(cluster: Fleet) -> None:
    put = cluster.registry.put(ClusterSettings())
    await cluster.registry.store.transact([], [type(put)(put.key, b'{"format":9}')])
    status, said = await cluster.refused(f"PATCH {SETTINGS}", {"set": {"max_units": "7"}})
    assert status == 500
    assert "later version of fleetd" in said


async def test_limits_follow_the_settings_within_a_second(cluster: Fleet) -> None:
    clock = 0.0
    cluster.reconfigure(now=lambda: clock, allowed_usage=Usage(1, 10_000))
    unit = {"options": [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]}
    assert (await cluster.ask("PUT /fleet/v1/units/a.service", unit)).status == 201
    assert (await cluster.ask("PUT /fleet/v1/units/b.service", unit)).status == 507
    await change(cluster, {"max_units": "2"})
    assert (await cluster.ask("PUT /fleet/v1/units/b.service", unit)).status == 201
    await change(cluster, {}, ("max_units",))
    clock = 2.0
    status, said = await cluster.refused("PUT /fleet/v1/units/c.service", unit)
    assert status == 507
    assert said == (
        "the cluster has 2 units, and max_units=1 of them are allowed: destroy what is not needed, or raise it with "
        "`fleetctl settings set`"
    )
