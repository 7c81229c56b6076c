"""A cluster that has lost a machine."""

from tests.unit.cluster_builder import Cluster, settled_cluster


def after_machine_loss(**units: str) -> Cluster:
    """These units run on m1, which is dead; m2 and m3 are ready."""
    cluster = settled_cluster("m1", **units)
    cluster.machine("m2")
    cluster.machine("m3")
    cluster.settle()
    cluster.die("m1")
    cluster.run_leader()
    return cluster
