"""A unit file and its drop-ins: one content, with one hash, read in systemd's order."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.content import (
    MAX_DROPINS,
    Content,
    DropIn,
    InvalidDropIn,
    make_dropins,
    merge_dropins,
    own_dropins,
    refuse_size,
)
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import MAX_UNIT_FILE_BYTES, hash_unit_file

FILE = "[Service]\nExecStart=/bin/true\n"
LIMIT = DropIn("10-limit.conf", "[Service]\nMemoryMax=1G\n")


def fleet(text: str, *dropins: str) -> list[tuple[str, str]]:
    """(name, value) of the options of a unit with these lines in [X-Fleet], in its file and in drop-ins."""
    texts = [f"[X-Fleet]\n{lines}\n" for lines in (text, *dropins)]
    content = Content(texts[0], make_dropins((f"{at}.conf", each) for at, each in enumerate(texts[1:])))
    return [(option.name, option.value) for option in content.options()]


def test_without_drop_ins_the_hash_is_that_of_the_unit_file() -> None:
    assert Content(FILE).hash == hash_unit_file(FILE)


def test_the_hash_tells_names_texts_and_the_boundaries_between_them_apart() -> None:
    contents = [
        Content(FILE),
        Content(FILE, (LIMIT,)),
        Content(FILE, (DropIn("20-limit.conf", LIMIT.text),)),
        Content(FILE, (DropIn(LIMIT.name, ""),)),
        Content(FILE + LIMIT.name + LIMIT.text),
        Content("", (DropIn(LIMIT.name, LIMIT.text + FILE),)),
        Content(FILE, (LIMIT, DropIn("a.conf", ""))),
    ]
    assert len({content.hash for content in contents}) == len(contents)


def test_the_options_are_those_of_the_file_then_those_of_the_drop_ins_by_name() -> None:
    dropins = make_dropins([("b.conf", "[Service]\nExecStart=\nExecStart=/b"), ("a.conf", "[Service]\nExecStart=/a")])
    values = [option.value for option in Content(FILE, dropins).options()]
    assert values == ["/bin/true", "/a", "", "/b"]


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        (("MachineMetadata=a=1", "MachineMetadata=b=2"), [("MachineMetadata", "a=1"), ("MachineMetadata", "b=2")]),
        (("MachineMetadata=a=1", "MachineMetadata=\nMachineMetadata=b=2"), [("MachineMetadata", "b=2")]),
        (("MachineMetadata=a=1", "MachineMetadata="), []),
        (("MachineMetadata=a=1\nGlobal=yes", "MachineMetadata="), [("Global", "yes")]),
        (("MachineID=1", "MachineID=2", "MachineID=3"), [("MachineID", "3")]),
        (("FailoverDelay=1min", "FailoverDelay="), []),
        (("Unknown=1", "Unknown=2"), [("Unknown", "1"), ("Unknown", "2")]),
        (("MachineMetadata=", "Global=yes"), [("MachineMetadata", ""), ("Global", "yes")]),
    ],
)
def test_a_drop_in_changes_constraints_as_it_changes_options_of_systemd(
    texts: tuple[str, ...], options: list[tuple[str, str]]
) -> None:
    assert fleet(*texts) == options


def test_a_drop_in_leaves_options_of_its_name_in_other_sections_alone() -> None:
    content = Content("[Unit]\nGlobal=1\n", (DropIn("a.conf", "[X-Fleet]\nGlobal=yes\n"),))
    assert content.options() == (UnitOption("Unit", "Global", "1"), UnitOption("X-Fleet", "Global", "yes"))


def test_drop_ins_are_rendered_as_unit_files_are() -> None:
    (dropin,) = make_dropins([("a.conf", "# why\n [Service]\n\nMemoryMax = 1G\n ; more\n[Unit]\nAfter=b")])
    assert dropin.text == "[Service]\nMemoryMax=1G\n\n[Unit]\nAfter=b\n"
    assert make_dropins([("a.conf", dropin.text)]) == (dropin,)


@pytest.mark.parametrize("name", ["a.conf", "10-a_b:c@d.e.conf", r"a\x2db.conf", "x" * 250 + ".conf"])
def test_names_that_systemd_reads_are_accepted(name: str) -> None:
    assert make_dropins([(name, "")]) == (DropIn(name, ""),)


LONG = "x" * 251 + ".conf"


@pytest.mark.parametrize(
    "name", ["", ".conf", "a", "a.conf ", "a.conf\n", ".a.conf", "..conf", "../a.conf", "a/b.conf", "é.conf", LONG]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidDropIn, match="is no name of a drop-in: it has to end in"):
        make_dropins([(name, "")])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([("a.conf", ""), ("a.conf", "")], 'drop-in "a.conf" is given twice: give it once'),
        ([("a.conf", "[Service]\nMemoryMax\n")], 'drop-in "a.conf", line 2: unexpected newline encountered'),
        (
            [("a.conf", "# why\n\nMemoryMax=1\n[Service]\n")],
            'drop-in "a.conf", line 3 stands before the first section',
        ),
        ([("a.conf", "[Service]\0")], 'drop-in "a.conf" holds a NUL byte: remove it'),
        ([(f"{number}.conf", "") for number in range(MAX_DROPINS + 1)], "65 drop-ins, and at most 64 are allowed"),
    ],
)
def test_a_drop_in_that_no_unit_may_have_is_refused_by_name(texts: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(InvalidDropIn, match=message):
        make_dropins(texts)


def test_a_unit_file_and_its_drop_ins_have_a_size_together() -> None:
    half = "x" * (MAX_UNIT_FILE_BYTES // 2)
    assert Content("ä", (DropIn("é.conf", "ab"),)).size == 2 + 7 + 2
    assert refuse_size(Content(half, (LIMIT,))) == ""
    assert refuse_size(Content(half * 2)) == ""
    assert refuse_size(Content(half, (LIMIT, DropIn("z.conf", half)))) == (
        "the unit file and its drop-ins have 262186 bytes together, and at most 262144 are allowed: "
        "move what is large into a file of its own"
    )


def test_an_instance_carries_the_drop_ins_of_its_template_and_its_own() -> None:
    template = make_dropins([("b.conf", "[Unit]\nA=1"), ("c.conf", "[Unit]\nC=1")])
    own = make_dropins([("a.conf", "[Unit]\nA=2"), ("b.conf", "[Unit]\nB=2")])
    carried = merge_dropins(template, own)
    assert carried == (own[0], own[1], template[1])
    assert own_dropins(carried, template) == own


DROPINS = st.dictionaries(st.sampled_from(["a.conf", "b.conf", "c.conf"]), st.sampled_from("xy")).map(
    lambda texts: tuple(DropIn(name, texts[name]) for name in sorted(texts))
)


@given(DROPINS, DROPINS, DROPINS)
def test_an_instance_keeps_its_own_drop_ins_when_its_template_changes(
    before: tuple[DropIn, ...], after: tuple[DropIn, ...], own: tuple[DropIn, ...]
) -> None:
    again = merge_dropins(after, own_dropins(merge_dropins(before, own), before))
    different = tuple(dropin for dropin in own if dropin not in before)
    assert again == merge_dropins(after, different)
    assert list(again) == sorted(again, key=lambda dropin: dropin.name)
    assert all(one.name < other.name for one, other in itertools.pairwise(again))
