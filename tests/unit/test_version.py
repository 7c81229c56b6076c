"""Versions of a group: which are written and deleted, and what they hold."""

from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.content import Content, DropIn
from fleetd.model.unit_set import SetUnit
from fleetd.model.version import (
    KEPT,
    MAX_BYTES,
    GroupContent,
    Version,
    contents_by_group,
    contents_of,
    pick_version,
    plan_versions,
    refuse_version,
)

ONE, TWO, THREE = (GroupContent(f"[Service]\nExecStart={word}\n") for word in ("/one", "/two", "/three"))
LIMIT = DropIn("10-limit.conf", "[Service]\nMemoryMax=1G\n")


def version(held: GroupContent, number: int = 0, note: str = "") -> Version:
    return Version(number=number, held=held, note=note)


def test_the_first_content_is_version_1() -> None:
    assert plan_versions({}, None, version(ONE, note="first")) == ((version(ONE, 1, "first"),), ())


def test_the_same_content_again_is_no_new_version() -> None:
    assert plan_versions({4: version(ONE, 4)}, ONE, version(ONE)) == ((), ())


def test_another_content_is_the_next_version() -> None:
    assert plan_versions({4: version(ONE, 4)}, ONE, version(TWO)) == ((version(TWO, 5),), ())


def test_a_return_to_an_earlier_content_is_a_version_of_its_own() -> None:
    stored = {1: version(ONE, 1), 2: version(TWO, 2)}
    assert plan_versions(stored, TWO, version(ONE)) == ((version(ONE, 3),), ())


def test_a_content_that_no_apply_has_written_gets_a_version_before_it_is_replaced() -> None:
    new, deleted = plan_versions({4: version(ONE, 4)}, TWO, version(THREE, note="mine"))
    assert [(each.number, each.held, each.note) for each in new] == [
        (5, TWO, "replaced without an apply"),
        (6, THREE, "mine"),
    ]
    assert deleted == ()


def test_the_oldest_versions_go() -> None:
    stored = {number: version(ONE, number) for number in range(3, 3 + KEPT)}
    assert plan_versions(stored, ONE, version(TWO))[1] == (3,)


@given(st.lists(st.tuples(st.sampled_from([None, ONE, TWO, THREE]), st.sampled_from([ONE, TWO, THREE])), max_size=30))
def test_numbers_rise_by_one_and_the_last_ten_are_kept(steps: list[tuple[GroupContent | None, GroupContent]]) -> None:
    stored: dict[int, Version] = {}
    for former, wanted in steps:
        new, deleted = plan_versions(stored, former, version(wanted))
        stored |= {each.number: each for each in new}
        for number in deleted:
            del stored[number]
        assert stored[max(stored)].held == wanted
        assert list(stored) == list(range(min(stored), max(stored) + 1))
        assert len(stored) <= KEPT


def test_a_group_holds_its_template_and_what_instances_have_of_their_own() -> None:
    template = Content("[Service]\nExecStart=/one\n", (LIMIT,))
    more, own = DropIn("20.conf", "[Service]\nNice=1\n"), Content("[Service]\nExecStart=/two\n", (LIMIT,))
    contents = {
        "web@.service": template,
        "web@1.service": template,
        "web@2.service": Content(template.text, (LIMIT, more)),
        "web@3.service": own,
        "db.service": Content("[Service]\nExecStart=/db\n"),
        "not-asked.service": template,
    }
    found = contents_by_group(contents, ["web@.service", "db.service", "none.service"])
    assert found == {
        "web@.service": GroupContent(
            template.text,
            (LIMIT,),
            (SetUnit("web@2.service", "", (more,)), SetUnit("web@3.service", own.text)),
        ),
        "db.service": GroupContent("[Service]\nExecStart=/db\n"),
    }
    assert found["web@.service"].content == template


def test_instances_without_a_template_have_all_of_their_own() -> None:
    content = Content("[Service]\nExecStart=/one\n")
    found = contents_by_group({"web@1.service": content}, ["web@.service"])
    assert found["web@.service"] == GroupContent("", (), (SetUnit("web@1.service", content.text),))


def test_a_group_that_no_transaction_can_hold_is_refused() -> None:
    large = "[Unit]\nDescription=" + "x" * 200_000 + "\n"
    assert refuse_version("a.service", ONE) == ""
    held = GroupContent(large, (), tuple(SetUnit(f"web@{number}.service", large) for number in range(4)))
    assert held.size > MAX_BYTES
    assert "into a drop-in of web@.service" in refuse_version("web@.service", held)


GROUP = "w@.service"
OWN = SetUnit("w@2.service", "[Service]\nExecStart=/own\n", (LIMIT,))


def test_a_version_gives_each_unit_what_it_held() -> None:
    held = version(GroupContent(ONE.text, (LIMIT,), (OWN, SetUnit("w@4.service", "", ()))))
    names = (GROUP, "w@1.service", "w@2.service", "other.service")
    assert contents_of(held, GROUP, names) == {
        GROUP: Content(ONE.text, (LIMIT,)),
        "w@1.service": Content(ONE.text, (LIMIT,)),
        "w@2.service": Content(OWN.text, (LIMIT,)),
    }
    alone = version(GroupContent("", (), (OWN,)))
    assert list(contents_of(alone, GROUP, ["w@1.service", "w@2.service"])) == ["w@2.service"]
    assert contents_of(version(TWO), "a.service", ["a.service"]) == {"a.service": TWO.content}


def test_the_version_to_return_to_is_the_last_that_differs() -> None:
    stored = {1: version(ONE, 1), 2: version(TWO, 2), 3: version(THREE, 3)}
    assert pick_version(stored, "a.service", {"a.service": THREE.content}) == stored[2]
    assert pick_version(stored, "a.service", {"a.service": Content("other")}) == stored[3]
    assert pick_version({3: stored[3]}, "a.service", {"a.service": THREE.content}) is None
