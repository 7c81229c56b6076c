"""Clusters at rest, drawn at random."""

from hypothesis import strategies as st

from fleetd.model.unit import Unit
from fleetd.registry.records import UNITS
from tests.unit.cluster_builder import LAUNCHED
from tests.unit.rolling_cluster import RollingCluster, text_of


def submit(cluster: RollingCluster, name: str, fleet: str = "", service: str = "") -> None:
    text = text_of("old", fleet).replace("[X-Fleet]", f"{service}\n[X-Fleet]")
    cluster.write(UNITS, (name,), Unit(name, text, LAUNCHED))


FLEETS = (
    "",
    "MaxUnavailable=2",
    "Handover=start-first",
    "MaxUnavailable=50%",
    "MachineMetadata=x=1",
    "Conflicts=%p@*",
    "Conflicts=a.service",
    "MachineOf=w@%i.service",
    "MachineOf=a.service",
)


@st.composite
def clusters(draw: st.DrawFn) -> RollingCluster:
    """Machines of two kinds, with groups of units on them that has come to rest."""
    cluster = RollingCluster(0)
    for number in range(draw(st.integers(2, 5))):
        cluster.machine(f"m{number}", x=str(draw(st.integers(1, 2))))
    for prefix in ("v", "w"):
        fleet = draw(st.sampled_from(FLEETS)).replace("%p", prefix)
        names = [f"{prefix}@{number}.service" for number in range(draw(st.integers(0, 4)))]
        for name in names:
            submit(cluster, name, fleet.replace("%i", name[2]))
    submit(cluster, "a.service", draw(st.sampled_from(("", "MachineMetadata=x=2", "Global=true"))))
    submit(cluster, "b.service", draw(st.sampled_from(("", "MachineOf=a.service", "Conflicts=w@*"))))
    cluster.come_to_rest()
    return cluster
