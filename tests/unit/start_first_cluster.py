"""A cluster with a unit of Handover=start-first, which is moved or drained from its machine."""

from msgspec.structs import replace

from fleetd.model.machine import Cordon, DrainRequest, MachineSettings
from fleetd.model.move import Move
from fleetd.model.unit import Unit
from fleetd.registry.records import MOVES, SETTINGS, UNITS
from tests.unit.cluster_builder import LAUNCHED, NOON
from tests.unit.rolling_cluster import RollingCluster, text_of

A = "a.service"
START_FIRST = "Handover=start-first"


def submit(cluster: RollingCluster, name: str, fleet: str = "", service: str = "", target: object = LAUNCHED) -> None:
    text = text_of("old", f"{START_FIRST}\n{fleet}").replace("[X-Fleet]", f"{service}\n[X-Fleet]")
    cluster.write(UNITS, (name,), Unit(name, text, target))
    cluster.come_to_rest()


def cluster_with(fleet: str = "", machines: int = 2, service: str = "", target: object = LAUNCHED) -> RollingCluster:
    """a.service, which starts first where it moves, on the first of these machines."""
    cluster = RollingCluster(machines)
    submit(cluster, A, fleet, service, target)
    return cluster


def move(cluster: RollingCluster, machine: str, name: str = A, **fields: object) -> None:
    request = Move(machine, "ann", NOON, origin=cluster.assigned().get(name, ""), was_available=True)
    cluster.write(MOVES, (name,), replace(request, **fields))


def drain(cluster: RollingCluster, machine: str, **fields: object) -> None:
    request = replace(DrainRequest("ann", NOON), **fields)
    cluster.write(SETTINGS, (machine,), MachineSettings(cordon=Cordon("drained"), drain=request))


def where(cluster: RollingCluster, name: str = A) -> list[str]:
    """The machines that the unit runs on."""
    return sorted(machine for machine, other in cluster.running if other == name)


def step(cluster: RollingCluster, times: int = 1) -> None:
    for _ in range(times):
        cluster.run_leader()
        cluster.run_agents()


def handing_over(**options: object) -> RollingCluster:
    """a.service is starting on m2, and runs on m1."""
    cluster = cluster_with(**options)
    drain(cluster, "m1")
    step(cluster)
    assert where(cluster) == ["m1", "m2"]
    return cluster
