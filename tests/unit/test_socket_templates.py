"""Sockets with Accept=yes: their template is where they are, and is nowhere without them."""

import pytest

from fleetd.model.constraints import parse_requirements
from fleetd.model.names import parse_name
from fleetd.model.unit import Unit
from fleetd.model.unitfile import parse_unit_file
from fleetd.registry.records import UNITS
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, LOADED, World, cluster

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
def test_the_template_of_a_socket_is_the_one_that_systemd_makes_instances_of(name, text, template):
    assert parse_requirements(parse_unit_file(text), parse_name(name)).template == template


def submit(world: World, name: str, text: str, target=LAUNCHED) -> None:
    world.write(UNITS, (name,), Unit(name, text, target))


def listening(*machines: str, fleet: str = "") -> World:
    """A socket and its template, of which the latter alone has this [X-Fleet] section, at rest."""
    world = cluster(*machines)
    submit(world, TEMPLATE, f"[Service]\nExecStart=/bin/talk\n[X-Fleet]\n{fleet}\n", INACTIVE)
    submit(world, SOCKET, "[Socket]\nAccept=yes\n")
    world.settle()
    return world


@pytest.mark.parametrize("fleet", ["", "Global=true", "Conflicts=talk*", "MachineMetadata=disk=none"])
def test_the_template_is_put_where_the_socket_is_whatever_it_asks_of_a_machine(fleet):
    world = listening("m1", "m2", fleet=fleet)
    assert world.homes() == {SOCKET: "m1", TEMPLATE: "m1"}
    assert world.snapshot.placements[TEMPLATE]["m1"].target is LOADED
    assert world.reason(TEMPLATE) == "where its sockets are"
    assert world.plan_cold().units == ()


def test_the_machine_gets_the_template_before_the_socket():
    world = cluster()
    submit(world, TEMPLATE, "[Service]\n", INACTIVE)
    submit(world, SOCKET, "[Socket]\nAccept=yes\n")
    assert [plan.unit for plan in world.plan().units] == [TEMPLATE, SOCKET]


def test_the_template_goes_along_when_the_socket_moves_or_goes():
    world = listening("m1", "m2")
    world.die("m1")
    world.settle()
    assert world.homes() == {SOCKET: "m2", TEMPLATE: "m2"}
    world.destroy(SOCKET)
    world.settle()
    assert world.homes() == {}
    assert TEMPLATE not in world.snapshot.decisions


def test_a_template_of_two_sockets_is_where_either_is():
    world = listening("m1", "m2")
    submit(world, "talk@eu.socket", "[Socket]\nAccept=yes\n[X-Fleet]\nConflicts=talk.socket\n")
    world.settle()
    assert world.homes() == {SOCKET: "m1", "talk@eu.socket": "m2", TEMPLATE: "m1 m2"}
    submit(world, SOCKET, "[Socket]\nAccept=no\n")  # it needs it no more
    world.settle()
    assert world.homes()[TEMPLATE] == "m2"


def test_a_template_that_is_replaced_or_destroyed_is_so_where_it_is():
    world = listening("m1", "m2")
    submit(world, TEMPLATE, "[Service]\nExecStart=/bin/other\n", INACTIVE)
    world.settle()
    assert "other" in world.snapshot.placements[TEMPLATE]["m1"].text
    world.destroy(TEMPLATE)
    world.settle()
    assert world.homes() == {SOCKET: "m1"}


def test_a_template_without_a_socket_is_nowhere_and_waits_for_nothing():
    world = cluster()
    submit(world, TEMPLATE, "[Service]\n", LAUNCHED)
    world.settle()
    assert world.homes() == {}
    assert TEMPLATE not in world.snapshot.decisions


def test_a_socket_that_lacks_its_template_says_so_until_that_is_submitted():
    world = cluster("m1", "m2")
    for machine in ("m1", "m2"):
        world.refuses[machine] = {SOCKET: LACKS}
    world.lacks = TEMPLATE
    submit(world, SOCKET, "[Socket]\nAccept=yes\n")
    world.settle()
    assert world.homes() == {}
    assert world.rejections(SOCKET) == {f"machine {LACKS}": 2}
    submit(world, TEMPLATE, "[Service]\n", INACTIVE)
    world.refuses.clear()
    world.settle()
    assert world.homes() == {SOCKET: "m1", TEMPLATE: "m1"}
