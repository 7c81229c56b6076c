"""What the leader has judged of absent machines is read from the store alone."""

from msgspec.structs import replace

from fleetd.registry.records import DECISIONS, MACHINES, STATES, SYNCED, Synced
from fleetd.scheduler.failover_delays import Now
from fleetd.scheduler.published_losses import note_losses
from fleetd.scheduler.snapshot import MachineLoss
from tests.unit.drawn_clusters import submit
from tests.unit.rolling_cluster import RollingCluster

NOW = Now(0.0, 1000.0)


def cluster_without_m1() -> RollingCluster:
    """a.service is on m1, which is absent."""
    cluster = RollingCluster(2)
    submit(cluster, "a.service", "MachineID=m1")
    submit(cluster, "b.service", "MachineID=m1")
    cluster.come_to_rest()
    cluster.write(MACHINES, ("m1",), None)
    cluster.write(STATES, ("m1", "a.service"), None)
    return cluster


def test_a_machine_whose_session_is_stored_may_be_alive() -> None:
    cluster = cluster_without_m1()
    cluster.write(SYNCED, ("m1",), Synced("s"))
    note_losses(cluster.snapshot, NOW)
    assert cluster.snapshot.away == {"m1"}
    assert cluster.snapshot.lost == {}


def test_any_other_is_lost_since_its_units_wait_for_it_or_as_of_now() -> None:
    cluster = cluster_without_m1()
    cluster.write(SYNCED, ("m1",), None)
    note_losses(cluster.snapshot, NOW)
    assert cluster.snapshot.away == frozenset()
    assert cluster.snapshot.lost == {"m1": MachineLoss(0.0, 1000.0, 1000.0)}
    decision = cluster.snapshot.decisions["a.service"]
    cluster.write(DECISIONS, ("a.service",), replace(decision, lost=990.0))
    note_losses(cluster.snapshot, NOW)
    assert cluster.snapshot.lost == {"m1": MachineLoss(-10.0, 990.0, 990.0)}
