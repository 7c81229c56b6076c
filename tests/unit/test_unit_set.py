"""Sets of units: their names, the instances that templates stand for, and what is refused in them."""

import pytest

from fleetd.model.content import Content, DropIn
from fleetd.model.unit import TargetState
from fleetd.model.unit_set import (
    MAX_MEMBERS,
    InvalidSet,
    SetUnit,
    expand,
    group_options_of,
    raw_instances,
    refuse_members,
    refuse_set_name,
)

SERVICE = "[Service]\nExecStart=/bin/true\n"
LIMIT = DropIn("10-limit.conf", "[Service]\nMemoryMax=1G\n")
OTHER = DropIn("20-other.conf", "[Service]\nNice=5\n")


def template(fleet: str = "", *dropins: DropIn) -> SetUnit:
    return SetUnit("web@.service", SERVICE + (f"\n[X-Fleet]\n{fleet}\n" if fleet else ""), dropins)


@pytest.mark.parametrize("name", ["deploy", "a", "0", "web-1.2_x", "a" * 100])
def test_names_of_sets(name: str) -> None:
    assert refuse_set_name(name) == ""


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a/b", "a b", "é", "a" * 101, "a\n"])
def test_what_is_no_name_of_a_set_is_named_with_the_rule(name: str) -> None:
    assert f'"{name}" is no name of a set' in refuse_set_name(name)


EXPANDED = [
    ("a plain unit", [SetUnit("a.service", SERVICE)], ["a.service"]),
    ("a template alone", [template()], ["web@.service"]),
    ("a number", [template("Instances=2")], ["web@.service", "web@1.service", "web@2.service"]),
    ("names", [template("Instances=eu us")], ["web@.service", "web@eu.service", "web@us.service"]),
    ("no instance", [template("Instances=0")], ["web@.service"]),
    ("a linked instance", [template(), SetUnit("web@eu.service")], ["web@.service", "web@eu.service"]),
    (
        "a number and a link",
        [template("Instances=1"), SetUnit("web@eu.service")],
        ["web@.service", "web@1.service", "web@eu.service"],
    ),
    ("a number in a drop-in", [template("", DropIn("a.conf", "[X-Fleet]\nInstances=1\n"))],
     ["web@.service", "web@1.service"]),
    ("an instance with a file of its own", [SetUnit("web@eu.service", SERVICE)], ["web@eu.service"]),
]  # fmt: skip


@pytest.mark.parametrize(("units", "names"), [case[1:] for case in EXPANDED], ids=[case[0] for case in EXPANDED])
def test_a_set_expands_to_its_units_and_the_instances_of_its_templates(units, names) -> None:  # type: ignore[no-untyped-def]
    assert list(expand(units)) == names


def test_an_instance_carries_the_drop_ins_of_its_template_and_its_own() -> None:
    own = DropIn("10-limit.conf", "[Service]\nMemoryMax=2G\n")
    found = expand([template("", LIMIT, OTHER), SetUnit("web@1.service"), SetUnit("web@2.service", dropins=(own,))])
    assert found["web@1.service"] is found["web@.service"] == Content(SERVICE, (LIMIT, OTHER))
    assert found["web@2.service"] == Content(SERVICE, (own, OTHER))


def test_an_instance_with_a_file_of_its_own_carries_the_drop_ins_of_its_template() -> None:
    found = expand([template("", LIMIT), SetUnit("web@1.service", "[Service]\nExecStart=/bin/false\n")])
    assert found["web@1.service"] == Content("[Service]\nExecStart=/bin/false\n", (LIMIT,))


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([SetUnit("a.service", SERVICE), SetUnit("a.service", SERVICE)], '"a.service" is given twice'),
        ([SetUnit("web@1.service")], '"web@1.service" has no unit file, and there is no template'),
        ([SetUnit("a.service")], '"a.service" has no unit file'),
        ([SetUnit("web@.service")], '"web@.service" has no unit file'),
        (
            [SetUnit(f"web{number}@.service", template("Instances=1000").text) for number in range(10)],
            f"these are {MAX_MEMBERS + 10} units",
        ),
    ],
)
def test_a_set_that_cannot_be_is_refused(units, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidSet, match=message):
        expand(units)


BAD_DROPIN = DropIn("a.conf", "[X-Fleet]\nMaxUnavailable=101%\n")
LARGE = tuple(DropIn(f"{number}.conf", f"[Unit]\nDescription={'x' * 90_000}\n") for number in range(3))


@pytest.mark.parametrize(
    ("unit", "refusal"),
    [
        (SetUnit("a.service", SERVICE), ""),
        (SetUnit("a.service", "[Service]\n[X-Fleet]\n"), "its unit file has no options"),
        (template("MaxUnavailable=0"), "MaxUnavailable: with 0"),
        (SetUnit("ssh.service", SERVICE), "would hide"),
        (SetUnit("a.service", SERVICE, (BAD_DROPIN,)), "MaxUnavailable: 101%"),
        (SetUnit("a.service", SERVICE, LARGE), "and at most 262144 are allowed"),
    ],
)
def test_a_unit_is_refused_for_its_name_and_its_whole_content(unit: SetUnit, refusal: str) -> None:
    found = refuse_members([unit], expand([unit]), lambda name: "/lib/ssh.service" if name == "ssh.service" else "")
    assert set(found) == ({unit.name} if refusal else set())
    assert refusal in found.get(unit.name, "")


def test_group_options_in_the_drop_in_of_an_instance_are_refused() -> None:
    units = [template(), SetUnit("web@1.service", dropins=(DropIn("a.conf", "[X-Fleet]\nInstances=3\n"),))]
    assert list(refuse_members(units, expand(units))) == ["web@1.service"]


def test_options_of_a_group_and_what_its_file_says_of_instances() -> None:
    content = Content(
        "[X-Fleet]\nDesiredState=loaded\nInstances=3\n", (DropIn("a.conf", '[X-Fleet]\nInstances="eu"  "us"\n'),)
    )
    assert group_options_of(content).desired_state is TargetState.LOADED
    assert raw_instances(content) == "eu us"
    assert raw_instances(Content(SERVICE)) == ""


def test_a_content_that_does_not_parse_has_the_default_options() -> None:
    broken = Content("[Service\n")
    assert group_options_of(broken).instances is None
    assert raw_instances(broken) == ""
