"""Which names there are, and what they stand for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.announcement import Announcement
from fleetd.model.name_table import NameData, NamedMachine, Names, NameTable, ServiceTarget, decode, encode

M1, M2, M3 = "11111111aaaa", "22222222bbbb", "33333333cccc"
MACHINES = (NamedMachine(M1, "10.0.0.1"), NamedMachine(M2, "10.0.0.2"), NamedMachine(M3, "fd00::3"))


def web(number: int, machine: str, address: str, zone: str = "") -> Announcement:
    return Announcement("web", f"web@{number}.service", machine, address, 8000 + number, "tcp", zone)


def names(*announcements: Announcement, machines: tuple[NamedMachine, ...] = MACHINES, zone: str = "") -> Names:
    return Names(NameTable("fleet.internal", ("127.0.0.1:8600",), M1, zone, machines, announcements))


def test_a_service_is_at_the_addresses_of_its_units_the_nearest_first() -> None:
    found = names(web(1, M2, "10.0.0.2", "east"), web(2, M3, "fd00::3", "west"), web(3, M1, "10.0.0.1"), zone="east")
    assert found.find(("web",)) == NameData((("10.0.0.1",), ("10.0.0.2",), ("fd00::3",)))
    assert found.find(("_web", "_tcp")) == NameData(
        services=(
            ServiceTarget(1, 8003, "11111111.machine.fleet.internal"),
            ServiceTarget(2, 8001, "22222222.machine.fleet.internal"),
            ServiceTarget(3, 8002, "33333333.machine.fleet.internal"),
        )
    )
    assert found.find(("_web", "_udp")) is None


def test_two_units_on_one_machine_are_one_address_and_two_targets() -> None:
    found = names(web(1, M2, "10.0.0.2"), web(2, M2, "10.0.0.2"))
    assert found.find(("web",)) == NameData((("10.0.0.2",),))
    service = found.find(("_web", "_tcp"))
    assert service is not None
    assert [target.port for target in service.services] == [8001, 8002]


def test_machines_without_a_zone_are_not_in_the_same_one() -> None:
    service = names(web(1, M2, "10.0.0.2")).find(("_web", "_tcp"))
    assert service is not None
    assert service.services[0].priority == 3


def test_addresses_take_turns_among_equals() -> None:
    found = names(*(web(number, f"{number}" * 9, f"10.0.1.{number}") for number in range(1, 4)), web(9, M1, "10.0.0.1"))
    data = found.find(("web",))
    assert data is not None
    assert data.turns == 3
    assert data.addresses_at(0) == ["10.0.0.1", "10.0.1.1", "10.0.1.2", "10.0.1.3"]
    assert data.addresses_at(1) == ["10.0.0.1", "10.0.1.2", "10.0.1.3", "10.0.1.1"]
    assert data.addresses_at(3) == data.addresses_at(0)


@pytest.mark.parametrize("name", ["web@1.service.unit", "web@1.unit", "web-1.unit"])
def test_a_unit_is_at_the_address_where_it_announces_something(name: str) -> None:
    assert names(web(1, M2, "10.0.0.2")).find(tuple(name.split("."))) == NameData((("10.0.0.2",),))


def test_a_unit_that_is_named_like_an_instance_without_its_at_keeps_the_name() -> None:
    found = names(web(1, M2, "10.0.0.2"), Announcement("other", "web-1.service", M1, "10.0.0.1", 1, "tcp"))
    assert found.find(("web-1", "unit")) == NameData((("10.0.0.1",),))


def test_machines_have_their_names_without_announcing_anything() -> None:
    found = names()
    for name in (M2, "22222222"):
        assert found.find((name, "machine")) == NameData((("10.0.0.2",),))
    assert found.find(("2222", "machine")) is None


def test_what_a_machine_announces_says_where_it_is() -> None:
    assert names(web(1, M2, "10.9.9.9")).find(("22222222", "machine")) == NameData((("10.9.9.9",),))
    assert names(web(1, M2, "10.9.9.9"), machines=()).find((M2, "machine")) == NameData((("10.9.9.9",),))


def test_machines_that_begin_the_same_have_their_whole_names_alone() -> None:
    twins = (NamedMachine("11111111aaaa", "10.0.0.1"), NamedMachine("11111111bbbb", "10.0.0.2"))
    found = names(web(1, "11111111bbbb", "10.0.0.2"), machines=twins)
    assert found.find(("11111111", "machine")) is None
    assert found.find(("11111111bbbb", "machine")) == NameData((("10.0.0.2",),))
    service = found.find(("_web", "_tcp"))
    assert service is not None
    assert service.services[0].host == "11111111bbbb.machine.fleet.internal"


def test_a_machine_whose_address_is_a_host_name_is_found_by_that() -> None:
    found = names(web(1, M2, "Two.Example.org."), machines=(NamedMachine(M2, "two.example.org"),))
    assert found.find(("22222222", "machine")) == NameData(alias="two.example.org")
    assert found.find(("web",)) is None
    service = found.find(("_web", "_tcp"))
    assert service is not None
    assert service.services == (ServiceTarget(3, 8001, "two.example.org"),)


@pytest.mark.parametrize("address", ["", "fe80::1%eth0", "a b", "a..b", "x" * 64 + ".org"])
def test_what_no_client_can_connect_to_has_no_name(address: str) -> None:
    found = names(web(1, M2, address), machines=())
    for name in (("web",), ("_web", "_tcp"), ("22222222", "machine"), ("web@1", "unit")):
        assert found.find(name) is None


def test_what_does_not_fit_into_a_name_is_left_out() -> None:
    for unit in ("x" * 64 + ".service", "a..service", ".".join("x" * 60 for _ in range(4)) + ".service", "ä.service"):
        found = names(Announcement("web", unit, M2, "10.0.0.2", 80, "tcp"), machines=())
        assert found.find(("web",)) == NameData((("10.0.0.2",),))
        assert found.find((*unit.split("."), "unit")) is None


def test_a_machine_whose_name_fits_nowhere_is_no_target() -> None:
    found = names(web(1, "x" * 64, "10.0.0.2"), web(2, "x" * 63 + "y", "10.0.0.2"), machines=())
    assert found.find(("web",)) == NameData((("10.0.0.2",),))
    assert found.find(("_web", "_tcp")) is None


def test_names_that_others_end_with_exist_and_have_nothing() -> None:
    found = names(web(1, M2, "10.0.0.2"))
    for name in ((), ("_tcp",), ("unit",), ("service", "unit"), ("machine",)):
        assert found.find(name) == NameData()
    assert found.find(("nothing",)) is None
    assert names(machines=()).find(()) == NameData()


def test_a_table_comes_back_from_its_file_in_one_order() -> None:
    some = (web(2, M2, "10.0.0.2", "east"), web(1, M1, "10.0.0.1"))
    table = NameTable("fleet.internal", ("127.0.0.1:8600", "[::1]:8600"), M1, "east", MACHINES, some)
    turned = NameTable("fleet.internal", ("127.0.0.1:8600", "[::1]:8600"), M1, "east", MACHINES[::-1], some[::-1])
    assert encode(table) == encode(turned)
    assert encode(decode(encode(turned))) == encode(table)
    assert set(decode(encode(table)).announcements) == set(some)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"format": 2, "domain": "x"}'])
def test_what_is_no_table_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="it holds no name table"):
        decode(content)


TEXTS = st.one_of(st.sampled_from(["web", "a.b", "web@1.service", M1, M2, "10.0.0.1", "fe80::1%x", "h.org"]), st.text())


@given(st.lists(st.builds(Announcement, TEXTS, TEXTS, TEXTS, TEXTS, st.integers(1, 65535), st.just("udp"), TEXTS)))
def test_every_name_fits_into_a_question(announcements: list[Announcement]) -> None:
    found = names(*announcements)
    for name in list(found._every()):
        data = found.find(name)
        assert data is not None
        assert data != NameData()
        assert all(0 < len(label.encode()) <= 63 for label in name)
        assert sum(len(label) + 1 for label in (*name, "fleet", "internal")) < 255
        for target in data.services:
            assert all(0 < len(label) <= 63 for label in target.host.split("."))
