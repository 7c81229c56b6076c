"""What an [X-Fleet] section requires, which options it may not combine, and which ones cause a warning."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.constraints import (
    MAX_OPEN_PATTERNS,
    MAX_VALUES,
    InvalidRequirements,
    Requirements,
    malformed_metadata,
    parse_requirements,
    unknown_requirements,
    validate_requirements,
)
from fleetd.model.names import parse_name
from fleetd.model.unit import UnitState
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import parse_unit_file

WEB = parse_name("web@1.service")


def fleet_options(text):
    return parse_unit_file(f"[X-Fleet]\n{text}\n")


REQUIRED = [
    ("nothing", "", Requirements()),
    ("another section's options", "[Unit]\nConflicts=a\nGlobal=true", Requirements()),
    ("names in another case", "global=true\nconflicts=a", Requirements()),
    (
        "the machine's id, by spelling first",
        "X-ConditionMachineBootID=c\nX-ConditionMachineID=b\nMachineID=a",
        Requirements(machine_id="a"),
    ),
    (
        "the older spelling of the id",
        "X-ConditionMachineBootID=c\nX-ConditionMachineID=b",
        Requirements(machine_id="b"),
    ),
    ("the oldest spelling of the id", "X-ConditionMachineBootID=c", Requirements(machine_id="c")),
    ("the first id of several", "MachineID=a\nMachineID=b", Requirements(machine_id="a")),
    ("an id that is set and empty", "MachineID=\nMachineID=b", Requirements(machine_id="")),
    (
        "peers, deprecated ones first",
        "MachineOf=a.service\nX-ConditionMachineOf=b.service\nMachineOf=c.service",
        Requirements(machine_of=("b.service", "a.service", "c.service")),
    ),
    (
        "a peer with a blank is one impossible name",
        "MachineOf=a.service b.service",
        Requirements(machine_of=("a.service b.service",)),
    ),
    ("an empty peer is one", "MachineOf=", Requirements(machine_of=("",))),
    (
        "a quoted list of peers",
        'MachineOf="a.service" "b.service"',
        Requirements(machine_of=("a.service", "b.service")),
    ),
    (
        "conflicts are parted at any blank",
        "Conflicts=a*\tb*\xa0c*\u3000d*\x1c",
        Requirements(conflicts=("a*", "b*", "c*", "d*\x1c")),
    ),
    ("no conflict", "Conflicts=\nX-Conflicts= ", Requirements()),
    (
        "conflicts, deprecated ones first",
        'Conflicts=a\nX-Conflicts="b c" "d"',
        Requirements(conflicts=("b", "c", "d", "a")),
    ),
    (
        "replaced units are parted like conflicts",
        'Replaces=a b\nReplaces="c" "d"\nReplaces=',
        Requirements(replaces=("a", "b", "c", "d")),
    ),
    (
        "metadata, grouped by key",
        "MachineMetadata=b=1\nMachineMetadata=a=2\nMachineMetadata=b=3\nMachineMetadata=b=1",
        Requirements(metadata=(("b", ("1", "3")), ("a", ("2",)))),
    ),
    (
        "metadata, deprecated first",
        "MachineMetadata=a=1\nX-ConditionMachineMetadata=a=2",
        Requirements(metadata=(("a", ("2", "1")),)),
    ),
    (
        "metadata as a quoted list with blanks",
        'MachineMetadata="a=1"  "b=x y"',
        Requirements(metadata=(("a", ("1",)), ("b", ("x y",)))),
    ),
    ("metadata is not trimmed", "MachineMetadata=a = 1", Requirements(metadata=(("a ", (" 1",)),))),
    (
        "metadata that is none",
        'MachineMetadata=a=\nMachineMetadata=a=b=c\nMachineMetadata="a" "=b" ""\nMachineMetadata=',
        Requirements(),
    ),
    ("quotes inside a list are dropped", 'MachineOf="a"b"c"', Requirements(machine_of=("abc",))),
    ("a single quote mark is an empty list", 'MachineOf="', Requirements(machine_of=("",))),
    ("quotes that do not enclose are part of the value", 'MachineOf="a" b', Requirements(machine_of=('"a" b',))),
    ("a tab between quotes does not part", 'MachineOf="a"\t"b"', Requirements(machine_of=("a\tb",))),
    ("a continued list", 'MachineOf="a" \\\n  "b" \\\n\t"c"', Requirements(machine_of=("a", "b", "c"))),
    ("a continued value that ends there", "MachineOf=a.service \\\n", Requirements(machine_of=("a.service",))),
    ("continued conflicts", "Conflicts=a* \\\n  b*\\\nc*", Requirements(conflicts=("a*", "b*", "c*"))),
    (
        "specifiers in every value",
        'MachineID=%i\nMachineOf=%p@%i.socket\nConflicts="%p@*" "%n %N"\nReplaces=%p-%i\nMachineMetadata=%p=%i',
        Requirements(
            machine_id="1",
            machine_of=("web@1.socket",),
            conflicts=("web@*", "web@1.service", "web@1"),
            replaces=("web-1",),
            metadata=(("web", ("1",)),),
        ),
    ),
    ("global by a specifier", "Global=%i", Requirements(is_global=True)),
    ("a delay in systemd's words", "FailoverDelay=1h 5min", Requirements(failover_delay_s=3900.0)),
    ("no delay", "FailoverDelay=0", Requirements(failover_delay_s=0.0)),
    ("a delay without an end", "FailoverDelay=infinity", Requirements(failover_delay_s=math.inf)),
    ("of several delays the last", "FailoverDelay=5min\nFailoverDelay=20", Requirements(failover_delay_s=20.0)),
    ("a delay that means nothing", "FailoverDelay=a while", Requirements()),
    ("to run again", "RerunAfterFailover=Yes", Requirements(rerun_after_failover=True)),
    ("not to run again", "RerunAfterFailover=1\nRerunAfterFailover=off", Requirements(rerun_after_failover=False)),
    ("to run again, perhaps", "RerunAfterFailover=perhaps", Requirements()),
]


@pytest.mark.covers(
    "1.7.1",
    "1.7.2",
    "1.7.3",
    "1.7.4",
    "1.7.6",
    "1.7.7",
    "1.8.1",
    "1.8.2",
    "1.8.3",
    "1.8.4",
    "1.8.5",
    "1.8.6",
    "1.9.1",
    "10.4.5",
    "10.5.3",
)
@pytest.mark.parametrize(("text", "required"), [case[1:] for case in REQUIRED], ids=[case[0] for case in REQUIRED])
def test_a_section_is_read_as_requirements(text, required):
    assert parse_requirements(fleet_options(text), WEB) == required


@pytest.mark.covers("1.7.5", "1.7.8")
@pytest.mark.parametrize("value", ["true", "Yes", "1", "ON", "t", "T", '"true"', "false\nGlobal=true"])
def test_a_unit_is_global_if_the_last_value_says_so(value):
    assert parse_requirements(fleet_options(f"Global={value}"), WEB).is_global


@pytest.mark.covers("1.7.8")
@pytest.mark.parametrize("value", ["", "y", "enabled", "false", "0", "true#", "true\nGlobal=no", "true\nGlobal="])
def test_any_other_value_is_not_global(value):
    assert not parse_requirements(fleet_options(f"Global={value}"), WEB).is_global


@pytest.mark.covers("1.7.5")
def test_a_deprecated_spelling_of_global_has_no_effect():
    options = fleet_options("X-Global=true")
    assert not parse_requirements(options, WEB).is_global
    assert unknown_requirements(options) == ("X-Global",)


LIKE_THESE = "90s, 5min or 1h 30min, or infinity"
EXCLUDED = [
    ("MachineOf=a.service\nConflicts=b* a*", 'unresolvable requirements: peer "a.service" matches conflict "a*"'),
    (
        "MachineOf=a.service\nMachineOf=b.service\nConflicts=b* a*",
        'unresolvable requirements: peer "a.service" matches conflict "a*"',
    ),
    ("MachineOf=%p\nConflicts=%p", 'unresolvable requirements: peer "%p" matches conflict "%p"'),
    (
        "MachineOf=a.service\nReplaces=[a]*\nMachineID=x",
        'unresolvable requirements: peer "a.service" matches replace "[a]*"',
    ),
    ("MachineID=x\nMachineOf=a\nConflicts=b\nGlobal=1\nReplaces=c", "MachineID cannot be used with Peers"),
    ("MachineID=x\nConflicts=b\nGlobal=1\nReplaces=c", "MachineID cannot be used with Conflicts"),
    ("MachineID=\nGlobal=1\nReplaces=c", "MachineID cannot be used with Global"),
    ("X-ConditionMachineBootID=x\nReplaces=c", "MachineID cannot be used with Replaces"),
    ("Global=1\nMachineOf=\nReplaces=c", "Global cannot be used with Peers"),
    ("Global=1\nReplaces=c\nConflicts=d", "Global cannot be used with Replaces"),
    ("Conflicts=a\nReplaces=b", "Conflicts cannot be used with Replaces"),
    ("Global=1\nFailoverDelay=0", "Global cannot be used with FailoverDelay"),
    ("Global=1\nRerunAfterFailover=no", "Global cannot be used with RerunAfterFailover"),
    (
        "FailoverDelay=5 fortnights",
        "FailoverDelay: '5 fortnights' is no time span: there is no unit 'fortnights'; "
        "write us, ms, s, min, h, d or w, or infinity",
    ),
    ("FailoverDelay=\nFailoverDelay=5s", "FailoverDelay: '' is no time span; write one like " + LIKE_THESE),
    ("FailoverDelay=%i", "FailoverDelay: '%i' is no time span; write one like " + LIKE_THESE),
    ("FailoverDelay=20y", "FailoverDelay: '20y' is too long: at most ten years, or infinity"),
    ("RerunAfterFailover=maybe", "RerunAfterFailover: 'maybe' is neither true nor false; write one of them"),
]


@pytest.mark.covers(
    "1.10.2", "1.10.3", "1.10.4", "1.10.5", "1.10.6", "1.10.7", "1.10.8", "1.10.9", "1.10.10", "1.10.11", "2.7.2"
)
@pytest.mark.parametrize(("text", "message"), EXCLUDED)
def test_conflicting_options_are_refused_with_the_first_error(text, message):
    with pytest.raises(InvalidRequirements) as refusal:
        validate_requirements(fleet_options(text))
    assert str(refusal.value) == message


@pytest.mark.parametrize("name", ["MachineOf", "Conflicts", "Replaces"])
def test_a_list_has_a_maximum_of_values(name):
    values = [f"{name}=u{number}.service" for number in range(MAX_VALUES + 1)]
    validate_requirements(fleet_options("\n".join(values[:-1])))
    with pytest.raises(InvalidRequirements, match=f"{name} has 129 values, and at most 128 are allowed"):
        validate_requirements(fleet_options("\n".join(values)))


@pytest.mark.covers("1.10.12", "10.4.10")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "MachineID=x\nMachineMetadata=a=b",
        "Global=true\nMachineMetadata=a=b",
        "Global=true\nConflicts=a*",
        "Global=false\nMachineID=x",
        "Global=no\nMachineOf=a.service\nConflicts=b*",
        "MachineOf=a.service\nReplaces=b*",
        "MachineOf=a.service\nConflicts=[a",
        "MachineOf=%p.service\nConflicts=web.*",
        "MachineID=x\nConflicts=",
        "MachineID=x\nFailoverDelay=infinity\nRerunAfterFailover=true",
        "Global=no\nFailoverDelay=5min\nConflicts=a*",
    ],
)
def test_compatible_options_are_accepted(text):
    assert validate_requirements(fleet_options(text)) is None


@pytest.mark.covers("1.7.9")
def test_unknown_options_are_listed_once_in_order_of_appearance():
    options = fleet_options("Foo=1\nMachineOf=a\nBar=2\nFoo=3\n[Unit]\nOther=1")
    assert unknown_requirements(options) == ("Foo", "Bar")


@pytest.mark.covers("1.8.6", "10.4.6")
def test_metadata_that_restricts_nothing_is_listed_and_empty_items_are_not():
    options = fleet_options(
        "MachineMetadata=a=b=c\nMachineMetadata=a=b c=d\nX-ConditionMachineMetadata=ssd\n"
        'MachineMetadata="a=1"  "=x"\nMachineMetadata='
    )
    assert malformed_metadata(options) == ("ssd", "a=b=c", "a=b c=d", "=x")


ITEMS = st.text(st.characters(exclude_characters='"\n\\%', exclude_categories=["Cs"]), max_size=6)


@pytest.mark.covers("1.8.1")
@given(st.lists(ITEMS, min_size=1))
def test_a_quoted_list_equals_one_option_for_each_item(items):
    listed = [UnitOption("X-Fleet", "MachineOf", " ".join(f'"{item}"' for item in items))]
    one_by_one = [UnitOption("X-Fleet", "MachineOf", item) for item in items]
    assert parse_requirements(listed, WEB) == parse_requirements(one_by_one, WEB)
    assert parse_requirements(listed, WEB).machine_of == tuple(items)


@pytest.mark.covers("2.4.1")
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("123")), max_size=8))
def test_every_metadata_item_is_one_alternative_of_its_key(pairs):
    options = [UnitOption("X-Fleet", "MachineMetadata", f"{key}={value}") for key, value in pairs]
    metadata = parse_requirements(options, WEB).metadata
    assert sorted((key, value) for key, alternatives in metadata for value in alternatives) == sorted(set(pairs))
    assert [key for key, _ in metadata] == list(dict.fromkeys(key for key, _ in pairs))


@pytest.mark.parametrize(
    ("active", "runs"),
    [
        ("", False),
        ("inactive", False),
        ("failed", False),
        ("active", True),
        ("activating", True),
        ("deactivating", True),
    ],
)
def test_a_unit_runs_unless_systemd_says_it_is_inactive_or_failed(active, runs):
    assert UnitState(active=active).runs == runs


@pytest.mark.parametrize("kind", ["Conflicts", "Replaces"])
def test_patterns_that_match_any_beginning_are_limited(kind):
    few = "\n".join(f"{kind}=*{number}*" for number in range(MAX_OPEN_PATTERNS))
    validate_requirements(fleet_options(f"{few}\n{kind}=web@*.service db.service"))
    validate_requirements(fleet_options(f"{few}\n{few}"))
    complaint = rf'{kind} has 9 globs that begin with a wildcard, such as "\*0\*", and at most 8'
    with pytest.raises(InvalidRequirements, match=complaint):
        validate_requirements(fleet_options(f"{few}\n{kind}=?x"))
