"""Unit names: the rules, the parts, the specifiers, and the globs that match them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.names import (
    TEMPLATE_TYPES,
    UNIT_TYPES,
    InvalidName,
    UnitName,
    compile_glob,
    expand_specifiers,
    is_reserved,
    literal_prefix,
    matches_glob,
    parse_name,
    template_of,
    validate_name,
    with_default_suffix,
)

VALID = [
    "foo.service",
    ".service",
    "foo@.service",
    "foo@1.service",
    "foo@a@b.service",
    "foo@a.b.service",
    r"foo\x2dbar.service",
    "A:z-0_9.mount",
    "a" * 248 + ".service",
]

INVALID = [
    ("", "unit name cannot be empty"),
    ("a" * 249 + ".service", "unit name exceeds maximum length (256)"),
    ("é" * 125 + ".service", "unit name exceeds maximum length (256)"),
    ("\ud800" * 90, "unit name exceeds maximum length (256)"),
    ("foo", 'unit name must contain "."'),
    ("a b", 'unit name must contain "."'),
    ("foo.", 'unit name cannot end in "."'),
    ("foo.conf", 'invalid unit type: "conf"'),
    ("foo.Service", 'invalid unit type: "Service"'),
    ("a b.\x1b[m", r'invalid unit type: "\x1b[m"'),
    ("foo@.mount", 'invalid unit type for template: "mount"'),
    ("+@x.swap", 'invalid unit type for template: "swap"'),
    ("a+b.service", "invalid character '+' in unit name"),
    ("@a b.service", "invalid character ' ' in unit name"),
    ("dir/a.service", "invalid character '/' in unit name"),
    ("é.service", "invalid character 'é' in unit name"),
    ("a\nb.service", r"invalid character '\n' in unit name"),
    ("@1.service", 'unit name cannot start in "@"'),
]


@pytest.mark.covers("1.1.2", "1.1.11")
@pytest.mark.parametrize("name", VALID)
def test_a_valid_name_is_accepted(name):
    assert validate_name(name) is None


@pytest.mark.covers("1.1.1", "1.1.2", "1.1.3", "1.1.4", "1.1.5", "1.1.6", "1.1.7", "1.1.8")
@pytest.mark.parametrize(("name", "message"), INVALID)
def test_the_first_error_of_a_name_is_reported(name, message):
    with pytest.raises(InvalidName) as refusal:
        validate_name(name)
    assert str(refusal.value) == message


@pytest.mark.covers("1.1.10")
def test_the_types_are_those_of_coreos_fleet():
    every = "automount busname device mount path scope service slice snapshot socket swap target timer"
    assert sorted(UNIT_TYPES) == every.split()
    assert sorted(TEMPLATE_TYPES) == ["path", "service", "socket", "target", "timer"]


@pytest.mark.covers("1.1.6", "1.1.10")
@pytest.mark.parametrize("unit_type", sorted(UNIT_TYPES))
def test_every_type_may_name_a_unit_and_some_a_template(unit_type):
    validate_name(f"a.{unit_type}")
    if unit_type in TEMPLATE_TYPES:
        validate_name(f"a@.{unit_type}")
    else:
        with pytest.raises(InvalidName, match="invalid unit type for template"):
            validate_name(f"a@.{unit_type}")


PARTS = [
    UnitName("foo.service", "foo", "service", "foo", "", ""),
    UnitName("foo.bar.service", "foo.bar", "service", "foo.bar", "", ""),
    UnitName("foo@.service", "foo@", "service", "foo", "foo@.service", ""),
    UnitName("foo@1.service", "foo@1", "service", "foo", "foo@.service", "1"),
    UnitName("foo@a@b.service", "foo@a@b", "service", "foo", "foo@.service", "a@b"),
    UnitName("foo@a.b.timer", "foo@a.b", "timer", "foo", "foo@.timer", "a.b"),
    UnitName(".service", "", "service", "", "", ""),
]


@pytest.mark.covers("1.2.1", "1.2.2", "1.2.3", "1.2.4", "1.2.5", "1.2.6")
@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: parts.full)
def test_a_name_is_split_at_its_last_dot_and_its_first_at(parts):
    assert parse_name(parts.full) == parts


@pytest.mark.covers("1.2.1", "1.2.3", "1.2.4")
@pytest.mark.parametrize(
    ("name", "is_template", "is_instance"),
    [("foo.service", False, False), ("foo@.service", True, False), ("foo@1.service", False, True)],
)
def test_a_name_is_plain_or_a_template_or_an_instance(name, is_template, is_instance):
    assert (parse_name(name).is_template, parse_name(name).is_instance) == (is_template, is_instance)


def test_a_name_without_a_dot_has_no_parts():
    with pytest.raises(InvalidName, match=r'must contain "\."'):
        parse_name("foo")


@pytest.mark.parametrize(
    "name", ["a.service", "a@.service", "a@1.service", "a@1@2.service", "a@1.2.timer", "@.socket", "a.b@c", "a@b.c@d"]
)
def test_the_template_alone_equals_that_of_all_parts(name):
    assert template_of(name) == parse_name(name).template


@pytest.mark.covers("1.1.12", "3.5.1")
@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("foo", "foo.service"),
        ("foo@1", "foo@1.service"),
        ("foo.target", "foo.target"),
        ("foo.swap", "foo.swap"),
        ("foo.slice", "foo.slice"),
        ("foo.bar", "foo.bar.service"),
        ("service", "service.service"),
        ("foo.service", "foo.service"),
        ("dir/foo.socket", "dir/foo.socket"),
        ("foo.timer", "foo.timer"),
        ("foo.path", "foo.path"),
        ("foo.device", "foo.device"),
        ("foo.mount", "foo.mount"),
        ("foo.automount", "foo.automount"),
    ],
)
def test_a_suffix_is_added_to_an_argument_without_one(argument, name):
    assert with_default_suffix(argument) == name


@pytest.mark.covers("R.7")
@pytest.mark.parametrize(
    "name",
    [
        "fleet.service",
        "fleet.socket",
        "fleet-lease.service",
        "fleet-isolate.service",
        "fleet-isolated.target",
        "fleet-pull-0123456789abcdef.service",
        "fleet-fetch-0123456789abcdef.service",
        "fleet-podman-events.service",
        "dbus.service",
        "systemd-journald.service",
        "init.scope",
        "session-3.scope",
        "-.mount",
        "-.slice",
        "user.slice",
        "user-1000.slice",
        "user@1000.service",
        "user-runtime-dir@1000.service",
        "run.mount",
        "run-user-1000.mount",
        "proc-sys-fs-binfmt_misc.mount",
        "dev.mount",
    ],
)
def test_names_of_units_that_run_the_machine_are_reserved(name):
    assert is_reserved(name)


@pytest.mark.parametrize(
    "name",
    [
        "fleetd.service",
        "my-fleet.service",
        "fleet-ui.service",
        "fleet-puller.service",
        "dbus-proxy.service",
        "systemd.service",
        "user-api.service",
        "user@.timer",
        "sys.service",
        "developers.mount",
        "srv-data.mount",
        "web.slice",
    ],
)
def test_names_that_only_look_reserved_are_not(name):
    assert not is_reserved(name)


@pytest.mark.covers("1.9.2", "1.9.3", "1.9.4", "1.9.5", "1.9.6")
@pytest.mark.parametrize(
    ("value", "expanded"),
    [
        ("plain", "plain"),
        ("%n", "web@eu.1.service"),
        ("%N", "web@eu.1"),
        ("%p@%i.socket %p", "web@eu.1.socket web"),
        ("%%p", "%web"),
        ("%m %", "%m %"),
    ],
)
def test_specifiers_stand_for_the_parts_of_the_name(value, expanded):
    assert expand_specifiers(value, parse_name("web@eu.1.service")) == expanded


@pytest.mark.covers("1.9.5")
def test_a_plain_name_has_an_empty_instance():
    assert expand_specifiers("%p@%i", parse_name("web.service")) == "web@"


MATCHING = [
    ("a.service", "a.service"),
    ("*", ""),
    ("*", "a.service"),
    ("**a**", "bab"),
    ("a*b*c", "a1b2b3c"),
    ("?.service", "é.service"),
    ("web@[0-9].service", "web@7.service"),
    ("[^a-c]", "d"),
    ("[!a]", "!"),
    ("[a^]", "^"),
    ("[^^]", "a"),
    ("[[]", "["),
    (r"[\]\-\\]", "]"),
    (r"[\]\-\\]", "-"),
    (r"[a-\]x]", "x"),
    ("[^c-a]", "b"),
    ("[^a]", "/"),
    ("[&&~~||]", "&"),
    ("[*]", "*"),
    ("]", "]"),
    (r"\*\[\\", r"*[\ "[:-1]),
    (r"\n", "n"),
    ("a.b", "a.b"),
    ("a\nb*", "a\nb\nc"),
]

NOT_MATCHING = [
    ("a.service", "xa.service"),
    ("a.service", "a.servicex"),
    ("a.b", "axb"),
    ("", "a"),
    ("*", "a/b"),
    ("?", "/"),
    ("?", ""),
    ("a*", "ba"),
    ("*a", "ab"),
    ("*ab", "aab/ab"),
    ("[a-c]", "A"),
    ("[c-a]", "b"),
    ("[!a]", "b"),
    ("[^a-c]", "b"),
    ("(a|b)+", "a"),
    ("a$", "a"),
    ("a", "a\n"),
]

MALFORMED = ["[", "[a", "[]", "[]a]", "[^]", "[^]a]", "[-a]", "[a-]", "[a-b-c]", "\\", "a*\\", "[\\]", "*[", "[a\\"]


@pytest.mark.covers("2.6.3")
@pytest.mark.parametrize(("pattern", "name"), MATCHING)
def test_a_glob_matches(pattern, name):
    assert matches_glob(pattern, name)


@pytest.mark.covers("2.6.3")
@pytest.mark.parametrize(("pattern", "name"), NOT_MATCHING)
def test_a_glob_does_not_match(pattern, name):
    assert compile_glob(pattern) is not None
    assert not matches_glob(pattern, name)


@pytest.mark.covers("2.6.3")
@pytest.mark.parametrize("pattern", MALFORMED)
def test_a_malformed_glob_matches_nothing_not_even_itself(pattern):
    assert compile_glob(pattern) is None
    assert not matches_glob(pattern, pattern)


def test_a_glob_of_many_stars_matches_in_time():
    """A backtracking regular expression would not finish this one match."""
    started = time.process_time()
    assert not matches_glob("*a" * 100 + "*b", "a" * 250)
    assert time.process_time() - started < 1


def test_a_glob_longer_than_any_name_matches_none_at_once():
    assert matches_glob("?" * 248 + ".service", "a" * 248 + ".service")
    assert matches_glob("*" * 1000 + ".service", "a" * 248 + ".service")
    assert compile_glob("?" * 257) is None
    assert not matches_glob("?" * 257, "a" * 257)


CHARACTERS = st.sampled_from("abc/^-]*")
RANGES = st.lists(st.tuples(CHARACTERS, CHARACTERS), min_size=1, max_size=3)
ELEMENTS = st.one_of(
    st.just(("star",)),
    st.just(("any",)),
    st.tuples(st.just("literal"), CHARACTERS),
    st.tuples(st.just("class"), st.booleans(), RANGES),
)


def written(element):
    """The element in the syntax of globs."""
    match element:
        case ("star",):
            return "*"
        case ("any",):
            return "?"
        case ("literal", char):
            return f"\\{char}"
        case (_, negated, ranges):
            return f"[{'^' * negated}" + "".join(rf"\{low}-\{high}" for low, high in ranges) + "]"


def stands_for(element, char):
    """True if the element, not a star, matches the character."""
    match element:
        case ("any",):
            return char != "/"
        case ("literal", wanted):
            return char == wanted
        case (_, negated, ranges):
            return negated != any(low <= char <= high for low, high in ranges)


def matches_by_definition(elements, name):
    """Go's algorithm: a piece between two stars is matched where it first fits, the last one at the end."""
    pieces = [[]]
    for element in elements:
        if element[0] == "star":
            pieces.append([])
        else:
            pieces[-1].append(element)

    def fits(piece, at):
        return len(name) - at >= len(piece) and all(map(stands_for, piece, name[at:]))

    at = len(pieces[0])
    if not fits(pieces[0], 0):
        return False
    if len(pieces) == 1:
        return at == len(name)
    for piece in pieces[1:-1]:
        reachable = [start for start in range(at, len(name) + 1) if "/" not in name[at:start] and fits(piece, start)]
        if not reachable:
            return False
        at = reachable[0] + len(piece)
    tail = len(name) - len(pieces[-1])
    return tail >= at and "/" not in name[at:tail] and fits(pieces[-1], tail)


@pytest.mark.covers("2.6.3")
@given(st.lists(ELEMENTS, max_size=6), st.text("abc/^-]*", max_size=8))
def test_a_glob_matches_what_its_elements_match(elements, name):
    assert matches_glob("".join(map(written, elements)), name) == matches_by_definition(elements, name)


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [("", ""), ("a.service", "a.service"), ("web@*", "web@"), ("a?b", "a"), ("a[bc]", "a"), ("a\\*", "a"), ("*", "")],
)
def test_the_literal_prefix_of_a_glob_ends_at_its_first_special_character(pattern, prefix):
    assert literal_prefix(pattern) == prefix


@given(st.lists(ELEMENTS, max_size=6), st.text("abc/^-]*", max_size=8))
def test_every_match_of_a_glob_begins_with_its_literal_prefix(elements, name):
    pattern = "".join(map(written, elements))
    assert name.startswith(literal_prefix(pattern)) or not matches_glob(pattern, name)


@given(st.text())
def test_any_text_is_a_glob_or_malformed(pattern):
    compiled = compile_glob(pattern)
    assert compiled is not None or any(mark in pattern for mark in "[\\")


@given(st.text(st.characters(exclude_characters="*?[\\")))
def test_a_text_without_special_characters_matches_itself_alone(text):
    assert matches_glob(text, text)
    assert not matches_glob(text, text + "x")
