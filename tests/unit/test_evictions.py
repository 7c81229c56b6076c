"""A unit that may not stay where it runs is stopped only when what it needs is on the machine where it goes."""

import pytest

from fleetd.model.reason import WaitingForDownload
from fleetd.model.unit import Unit, UnitState
from fleetd.registry.records import STATES, UNITS
from tests.unit.cluster_builder import LAUNCHED
from tests.unit.rolling_cluster import RollingCluster, text_of
from tests.unit.start_first_cluster import A, step, where
from tests.unit.test_preparing import PREPARING, B, text

NEW = "new.service"
DISK = "MachineMetadata=disk=ssd"


def cluster_on(machines: int = 2, fleet: str = DISK, peers: str = "") -> RollingCluster:
    """a.service, which needs an image, on m1; no machine has its image from now on. `peers` is [X-Fleet] of b.service
    beside it."""
    cluster = RollingCluster(0)
    for number in range(1, machines + 1):
        cluster.machine(f"m{number}", disk="ssd", spot=f"m{number}")
    cluster.write(UNITS, (A,), Unit(A, text(fleet), LAUNCHED))
    cluster.come_to_rest()
    if peers:
        cluster.write(UNITS, (B,), Unit(B, text(peers), LAUNCHED))
        cluster.come_to_rest()
    assert where(cluster) == ["m1"]
    cluster.downloads = {f"m{number}": "" for number in range(1, machines + 1)}
    return cluster


def replace_it(cluster: RollingCluster, content: str = "") -> None:
    """Another unit replaces a.service on m1."""
    fleet = f"Replaces={A}\nMachineMetadata=spot=m1"
    cluster.write(UNITS, (NEW,), Unit(NEW, content or text_of("new", fleet), LAUNCHED))


def evict(cluster: RollingCluster, way: str) -> None:
    if way == "metadata":
        cluster.machine("m1", disk="hdd", spot="m1")
    else:
        replace_it(cluster)


@pytest.mark.parametrize("way", ["metadata", "replaced"])
def test_a_unit_is_evicted_when_its_image_is_where_it_goes(way: str) -> None:
    cluster = cluster_on()
    evict(cluster, way)
    step(cluster, 4)
    assert cluster.placement_states(A) == PREPARING
    assert (cluster.reason(A), where(cluster)) == ("waits until m2 has downloaded what a.service needs there", ["m1"])
    assert not cluster.run_leader().units
    del cluster.downloads["m2"]
    cluster.come_to_rest()
    assert (cluster.placement_states(A), where(cluster)) == ({"m2": "assigned"}, ["m2"])
    assert cluster.reason(A) == "fits"


def test_what_replaces_others_has_its_own_image_before() -> None:
    cluster = cluster_on()
    del cluster.downloads["m2"]
    cluster.downloading = ("m1", NEW)
    replace_it(cluster, text(f"Replaces={A}\nMachineMetadata=spot=m1"))
    step(cluster, 3)
    assert cluster.assigned()[NEW] == "m1"
    assert cluster.placement_states(A) == {"m1": "assigned"}
    assert where(cluster) == ["m1"]
    cluster.downloading = None
    cluster.come_to_rest()
    assert (where(cluster), where(cluster, NEW)) == (["m2"], ["m1"])


def test_what_replaces_others_and_waits_for_their_lock_is_not_awaited() -> None:
    cluster = cluster_on()
    del cluster.downloads["m2"]
    cluster.downloading = ("m1", NEW)
    replace_it(cluster, text(f"Replaces={A}\nMachineMetadata=spot=m1"))
    step(cluster, 3)
    assert where(cluster) == ["m1"]
    placed = cluster.snapshot.placements[NEW]["m1"]
    cluster.write(STATES, ("m1", NEW), UnitState("loaded", "inactive", "dead", placed.content.hash, result="lock"))
    step(cluster, 3)
    assert where(cluster) != ["m1"]


@pytest.mark.parametrize("way", ["metadata", "replaced"])
def test_where_its_image_cannot_be_had(way: str) -> None:
    """One that must not run on goes after the first failure, any other stays as long as there is none."""
    cluster = cluster_on(3)
    cluster.downloading = ("m3", A)
    evict(cluster, way)
    step(cluster, 2)
    cluster.downloads["m2"] = "cannot get the image"
    step(cluster, 4)
    if way == "metadata":
        assert (cluster.assigned()[A], cluster.placement_states(A)["m2"]) == ("m3", "withdrawn")
        assert where(cluster) == []
        return
    cluster.downloading = None
    step(cluster)
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn", "m3": "preparing"}
    cluster.downloads["m3"] = "cannot get the image"
    cluster.come_to_rest()
    assert where(cluster) == ["m1"]


def test_a_machine_that_downloads_nothing_ahead_is_not_waited_for() -> None:
    cluster = cluster_on()
    cluster.machine("m2", disk="ssd", is_old=True)
    evict(cluster, "metadata")
    step(cluster)
    assert where(cluster) == []


def test_a_unit_that_fits_nowhere_else_does_not_stay() -> None:
    cluster = cluster_on(1)
    evict(cluster, "metadata")
    cluster.come_to_rest()
    assert where(cluster) == []


def test_content_that_may_not_run_there_is_waited_for_nowhere() -> None:
    cluster = cluster_on()
    cluster.write(UNITS, (A,), Unit(A, text("MachineID=m2"), LAUNCHED))
    step(cluster)
    assert where(cluster) == []


def test_a_peer_is_no_reason_to_wait() -> None:
    """It goes at once, as what it follows does."""
    cluster = cluster_on(peers=f"MachineOf={A}")
    cluster.write(UNITS, (A,), Unit(A, text("MachineID=m2"), LAUNCHED))
    step(cluster, 2)
    assert where(cluster) == where(cluster, B) == []


@pytest.mark.parametrize("last", [A, B])
def test_what_follows_it_waits_with_it(last: str) -> None:
    """Neither goes before all is there that both need."""
    cluster = cluster_on(peers=f"MachineOf={A}")
    assert where(cluster, B) == ["m1"]
    evict(cluster, "metadata")
    step(cluster, 2)
    assert cluster.snapshot.decisions[A].reason == WaitingForDownload("m2", (A, B))
    assert cluster.reason(B) == cluster.reason(A)
    assert cluster.placement_states(B) == PREPARING
    cluster.late = last
    del cluster.downloads["m2"]
    step(cluster, 4)
    assert where(cluster) == where(cluster, B) == ["m1"]
    cluster.late = ""
    cluster.come_to_rest()
    assert where(cluster) == where(cluster, B) == ["m2"]


def test_what_it_follows_stays_where_it_is() -> None:
    cluster = cluster_on(peers=f"MachineOf={A}\n{DISK}")
    cluster.write(UNITS, (A,), Unit(A, text(), LAUNCHED))
    cluster.come_to_rest()
    evict(cluster, "metadata")
    cluster.come_to_rest()
    assert (where(cluster), where(cluster, B)) == (["m1"], [])
