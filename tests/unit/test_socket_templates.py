"""Sockets with Accept=yes: their template is placed on their machines alone."""

import pytest

from fleetd.model.constraints import parse_requirements
from fleetd.model.names import parse_name
from fleetd.model.unit import Unit
from fleetd.model.unitfile import parse_unit_file
from fleetd.registry.records import UNITS
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, LOADED, Cluster, settled_cluster

SOCKET, TEMPLATE = "talk.socket", "talk@.service"
LACKS = f"lacks {TEMPLATE}"


@pytest.mark.parametrize(
    ("name", "text", "template"),
    [
        ("talk.socket", "[Socket]\nAccept=yes", "talk@.service"),
        ("talk@eu.socket", "[Socket]\nAccept=on", "talk@.service"),
        ("talk.socket", "[Socket]\nAccept=no\nAccept=1", "talk@.service"),
        ("talk.socket", "[Socket]\nAccept=yes\nAccept=no", ""),
        ("talk.socket", "[Socket]\nListenStream=7", ""),
        ("talk.socket", "[Service]\nAccept=yes", ""),
        ("talk.service", "[Socket]\nAccept=yes", ""),
    ],
)
def test_the_template_of_a_socket_is_the_one_that_systemd_instantiates(name, text, template):
    assert parse_requirements(parse_unit_file(text), parse_name(name)).template == template


def write_unit(cluster: Cluster, name: str, text: str, target=LAUNCHED) -> None:
    cluster.write(UNITS, (name,), Unit(name, text, target))


def listening(*machines: str, fleet: str = "") -> Cluster:
    """A cluster at rest with a socket and its template, which has this [X-Fleet] section."""
    cluster = settled_cluster(*machines)
    write_unit(cluster, TEMPLATE, f"[Service]\nExecStart=/bin/talk\n[X-Fleet]\n{fleet}\n", INACTIVE)
    write_unit(cluster, SOCKET, "[Socket]\nAccept=yes\n")
    cluster.settle()
    return cluster


@pytest.mark.parametrize("fleet", ["", "Global=true", "Conflicts=talk*", "MachineMetadata=disk=none"])
def test_the_template_is_placed_where_the_socket_is_whatever_its_constraints(fleet):
    cluster = listening("m1", "m2", fleet=fleet)
    assert cluster.assigned() == {SOCKET: "m1", TEMPLATE: "m1"}
    assert cluster.snapshot.placements[TEMPLATE]["m1"].target is LOADED
    assert cluster.reason(TEMPLATE) == "where its sockets are"
    assert cluster.plan_cold().units == ()


def test_the_template_is_placed_before_the_socket():
    cluster = settled_cluster()
    write_unit(cluster, TEMPLATE, "[Service]\n", INACTIVE)
    write_unit(cluster, SOCKET, "[Socket]\nAccept=yes\n")
    assert [plan.unit for plan in cluster.plan().units] == [TEMPLATE, SOCKET]


def test_the_template_moves_and_stops_with_the_socket():
    cluster = listening("m1", "m2")
    cluster.die("m1")
    cluster.settle()
    assert cluster.assigned() == {SOCKET: "m2", TEMPLATE: "m2"}
    cluster.destroy(SOCKET)
    cluster.settle()
    assert cluster.assigned() == {}
    assert TEMPLATE not in cluster.snapshot.decisions


def test_a_template_of_two_sockets_is_placed_with_both():
    cluster = listening("m1", "m2")
    write_unit(cluster, "talk@eu.socket", "[Socket]\nAccept=yes\n[X-Fleet]\nConflicts=talk.socket\n")
    cluster.settle()
    assert cluster.assigned() == {SOCKET: "m1", "talk@eu.socket": "m2", TEMPLATE: "m1 m2"}
    write_unit(cluster, SOCKET, "[Socket]\nAccept=no\n")  # needs no template
    cluster.settle()
    assert cluster.assigned()[TEMPLATE] == "m2"


def test_a_new_or_destroyed_template_takes_effect_where_it_is_placed():
    cluster = listening("m1", "m2")
    write_unit(cluster, TEMPLATE, "[Service]\nExecStart=/bin/other\n", INACTIVE)
    cluster.settle()
    assert "other" in cluster.snapshot.placements[TEMPLATE]["m1"].text
    cluster.destroy(TEMPLATE)
    cluster.settle()
    assert cluster.assigned() == {SOCKET: "m1"}


def test_a_template_without_a_socket_is_not_placed_and_has_no_decision():
    cluster = settled_cluster()
    write_unit(cluster, TEMPLATE, "[Service]\n", LAUNCHED)
    cluster.settle()
    assert cluster.assigned() == {}
    assert TEMPLATE not in cluster.snapshot.decisions


def test_a_socket_without_its_template_says_so_until_that_is_submitted():
    cluster = settled_cluster("m1", "m2")
    for machine in ("m1", "m2"):
        cluster.refusals[machine] = {SOCKET: LACKS}
    cluster.lacks = TEMPLATE
    write_unit(cluster, SOCKET, "[Socket]\nAccept=yes\n")
    cluster.settle()
    assert cluster.assigned() == {}
    assert cluster.rejections(SOCKET) == {f"machine {LACKS}": 2}
    write_unit(cluster, TEMPLATE, "[Service]\n", INACTIVE)
    cluster.refusals.clear()
    cluster.settle()
    assert cluster.assigned() == {SOCKET: "m1", TEMPLATE: "m1"}
