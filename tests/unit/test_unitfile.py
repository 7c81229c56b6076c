"""Unit files: how a text is read and written, and what cannot be written and read back."""

import hashlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import (
    MAX_UNIT_FILE_BYTES,
    WHITESPACE,
    UnitFile,
    UnitFileError,
    check_options,
    decode_unit_file,
    first_value,
    hash_unit_file,
    join_continued,
    parse_unit_file,
    render_unit_file,
    surprising_lines,
    without_comments,
)

# CoreOS fleet's reading of each text: hashes of stored units depend on it.
HASHES = [
    ("", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
    ("[Unit]\n", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
    ("[Unit]\nA=1", "57f9ae55f7aa024c2d59095205ee365cb4d10889"),
    ("[Service]\nExecStart=/bin/true\n", "86943ac9f3754cb90f8dd38bf6da7b0cad074592"),
    ("# c\n; d\n\n[Unit]\n# x\nDescription=a\n\n;y\nAfter=b\n", "168473f14df849c375b74801bbbb459fd842b53c"),
    ("[Unit]\n   Description  =   a b   \n\tAfter\t=\tx\n", "922a1aa1251de2014dd129214264cd9ab4260e2d"),
    ("[Service]\nA=1\n[Unit]\nB=2\n[Service]\nC=3\n", "a8477218b924fcbf7a632879187702ca3096810c"),
    ("[Service]\nExecStart=\nExecStart=/bin/true\n", "873f58abc4adb5abd36ca2d94676242eca22f9a2"),
    (
        "[Service]\nExecStart=/bin/echo a \\\n    b \\\n  c\nType=simple\n",
        "7482be6465847d8a51b333dab0f87efe007ad844",
    ),
    ("[Service]\nExecStart=/bin/echo a \\\n\nType=simple\n", "640967e649037b2f61a53a94d7861ce5374fe564"),
    (
        "[Unit]\r\nDescription=a\r\n[Service]\r\nExecStart=/bin/true\r\n",
        "7ae8b9630f184657efd74aaf009e656accb67d87",
    ),
    ("[Unit]\nA=\"b c\" 'd'\n", "3213a49d86d3453e45f90c3f21f1c73b706cc53a"),
    ("[Unit]\nA=b # c\n", "46060df8af7aa55d50ca28438f89d3addbd899cf"),
    ("[Unit]\nDescription=héllo 世\n", "6c1a8699eed98f978b69df225602d4df915120c4"),
]


@pytest.mark.covers(
    "1.4.3", "1.4.4", "1.4.5", "1.4.7", "1.4.10", "1.4.11", "1.4.12", "1.4.13", "1.4.16", "1.4.18", "1.6.4"
)
@pytest.mark.parametrize(("text", "digest"), HASHES)
def test_a_content_has_the_hash_that_coreos_fleet_gives_it(text, digest):
    assert UnitFile.parse(text).hash == digest


READ = [
    ("an option before any section is passed over", "A=1\n[S]\nB=2", [("S", "B", "2")]),
    ("a byte order mark is passed over", "\ufeff[S]\nA=1", [("S", "A", "1")]),
    ("a section may begin in the middle of what is passed over", "junk [S]\nA=1", [("S", "A", "1")]),
    ("a comment before any section hides a header", "x # [Unit]\n[S]\nA=1", [("S", "A", "1")]),
    ("a comment before any section ends with its line", "; x \\\n[S]\nA=1", [("S", "A", "1")]),
    ("a byte order mark at the beginning is passed over", "\ufeff[S]\nA=1", [("S", "A", "1")]),
    ("a section's name is taken as it stands", "[ a # b ]\nA=1", [(" a # b ", "A", "1")]),
    ("a section's name may span lines", "[a\nb]\nA=1", [("a\nb", "A", "1")]),
    ("a section may have no name", "[]\nA=1", [("", "A", "1")]),
    ("a header may be indented and followed by blanks", "[S]\n \t[T] \u3000\r\nA=1", [("T", "A", "1")]),
    ("an option may have no name", "[S]\n=x", [("S", "", "x")]),
    ("a name keeps its inner blanks", "[S]\nA B = c", [("S", "A B", "c")]),
    ("a value keeps further equals signs", "[S]\nA=b=c==", [("S", "A", "b=c==")]),
    ("a value keeps what looks like a section", "[S]\nA=[T]\nB[1]=2", [("S", "A", "[T]"), ("S", "B[1]", "2")]),
    ("a value keeps a bare carriage return", "[S]\nA=b\rc\n", [("S", "A", "b\rc")]),
    ("a comment may be indented", "[S]\n  # A=1\n\t;B=2\nC=3", [("S", "C", "3")]),
    ("a comment that ends in a backslash ends with its line", "[S]\n#x\\\nA=1", [("S", "A", "1")]),
    ("so it does where a blank follows the backslash", "[S]\n;x\\ \nA=1", [("S", "A", "1")]),
    ("a continued value keeps indentation", "[S]\nA=b\\\n  c\nD=e", [("S", "A", "b\\\n  c"), ("S", "D", "e")]),
    ("a comment in a value is left out", "[S]\nA=b \\\n # c\n;d\\\n e\nD=f", [("S", "A", "b \\\n e"), ("S", "D", "f")]),
    ("a comment in a value that the end cuts is left out", "[S]\nA=b\\\n# c", [("S", "A", "b\\\n")]),
    ("an escaped backslash continues nothing", "[S]\nA=b\\\\\nD=e", [("S", "A", "b\\\\"), ("S", "D", "e")]),
    ("a third backslash does", "[S]\nA=b\\\\\\\nD=e", [("S", "A", "b\\\\\\\nD=e")]),
    ("a header in a continued value is part of it", "[S]\nA=b\\\n[T]\nD=e", [("S", "A", "b\\\n[T]"), ("S", "D", "e")]),
    ("a blank line ends a continued value", "[S]\nA=b\\\n \t\nD=e", [("S", "A", "b\\\n"), ("S", "D", "e")]),
    ("a value may begin with a continuation", "[S]\nA= \\\nb", [("S", "A", "\\\nb")]),
    ("a continued value may be cut by the end", "[S]\nA=b\\\n", [("S", "A", "b\\\n")]),
    ("a final newline makes no difference there", "[S]\nA=b\\", [("S", "A", "b\\\n")]),
    ("a continued line may end in CRLF", "[S]\r\nA=b \\\r\n c\r\nD=e\r\n", [("S", "A", "b \\\n c"), ("S", "D", "e")]),
    ("a backslash before blanks continues nothing", "[S]\nA=b\\ \nC=d", [("S", "A", "b\\"), ("S", "C", "d")]),
    ("control characters are no blanks", "[S]\nA=\x1cb\x1f", [("S", "A", "\x1cb\x1f")]),
    ("every Unicode blank is trimmed", f"[S]\n{WHITESPACE}", []),
    ("Unicode blanks around names and values go", "[S]\n\u2028A\xa0=\x85b\u3000", [("S", "A", "b")]),
]


@pytest.mark.covers(
    "1.4.1",
    "1.4.2",
    "1.4.5",
    "1.4.6",
    "1.4.8",
    "1.4.13",
    "1.4.14",
    "1.4.15",
    "1.4.16",
    "1.4.18",
    "1.4.19",
    "10.4.1",
    "10.4.4",
    "10.4.7",
)
@pytest.mark.parametrize(("text", "options"), [case[1:] for case in READ], ids=[case[0] for case in READ])
def test_a_text_is_read_as_options(text, options):
    assert parse_unit_file(text) == tuple(UnitOption(*option) for option in options)


IGNORED = "stands before the first section, and is ignored"
IN_VALUE = "is a comment within a continued line: CoreOS fleet took it for a part of that"
SWALLOWED = "is a comment that ends in a backslash: CoreOS fleet passed over the next line"
ESCAPED = "ends in an escaped backslash: CoreOS fleet took the next line for a part of it"


@pytest.mark.covers("1.4.6", "1.4.14", "10.4.1")
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ()),
        ("[S]\nA=1\n", ()),
        ("\ufeff# a comment\n; and\none more\n\n \t[S]\nA=1\n", ((3, IGNORED),)),
        ("# a comment\nA=1\nB=1\n[S]\n", ((2, IGNORED),)),
        ("\ufeffjunk [S]\nA=1\n", ((1, IGNORED),)),
        ("\n\nword", ((3, IGNORED),)),
        ("[S]\n# A=1 \\\nB=2\n", ((2, SWALLOWED),)),
        ("[S]\n# A=1 \\ \nB=2\n", ((2, SWALLOWED),)),
        ("[S]\n# A=1 \\\n\nB=2\n", ()),
        ("[S]\n# A=1 \\\n# B=2\n#\\", ()),
        ("[S]\nA=b \\\n# c\n  d\n# e\n", ((3, IN_VALUE),)),
        ("[S]\nA=b \\\r\n# c\n", ((3, IN_VALUE),)),
        ("[S]\nA=b\\\\\n[X-Fleet]\n", ((2, ESCAPED),)),
        ("[S]\nA=b\\\\\n\n", ()),
    ],
)
def test_a_line_that_is_read_unexpectedly_is_warned_about(text, lines):
    assert surprising_lines(text) == lines


NEWLINE_IN_NAME = "unexpected newline encountered while parsing option name"
REFUSED = [
    ("[S]\nA=1\nword\nB=2", NEWLINE_IN_NAME, 3),
    ("[S]\nword\n", NEWLINE_IN_NAME, 2),
    ("[S]\nA\rB=1", NEWLINE_IN_NAME, 2),
    ("[S]\nword\r", NEWLINE_IN_NAME, 2),
    ("[S]\nword", "EOF", 2),
    ("[S]\nA=1\n[T\nB=2\n", "unable to find end of section", 3),
    ("[", "unable to find end of section", 1),
    ("[S] junk\x1b\n", r"found garbage after section name 'S': 'junk\x1b'", 1),
    ("[a\nb] c", r"found garbage after section name 'a\nb': 'c'", 2),
    ("[S]\nword\n" + "x" * 3000, NEWLINE_IN_NAME, 2),
]


@pytest.mark.covers("1.4.2", "1.4.9", "10.4.3")
@pytest.mark.parametrize(("text", "message", "line"), REFUSED)
def test_an_invalid_text_is_refused_with_its_line(text, message, line):
    with pytest.raises(UnitFileError) as refusal:
        parse_unit_file(text)
    assert (str(refusal.value), refusal.value.line) == (message, line)


@pytest.mark.covers("1.4.17", "10.4.2")
@pytest.mark.parametrize("value", ["x" * 100_000, "é" * 50_000, "x\\\n" * 1000 + "x"])
def test_a_line_may_be_as_long_as_the_file(value):
    assert parse_unit_file(f"[S]\nA={value}\n") == (UnitOption("S", "A", value),)
    check_options([UnitOption("S", "A", value)])


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("a", "a"),
        ("#a", "#a"),
        ("a \\\n# b \\\n  c", "a \\\n  c"),
        ("a \\\n# b", "a \\\n"),
        ("a \\\n", "a \\\n"),
    ],
)
def test_comments_in_a_value_are_dropped_as_in_a_file(value, read):
    assert without_comments(value) == read
    assert parse_unit_file(f"[S]\nA={value}\n\n") == (UnitOption("S", "A", read),)


@pytest.mark.parametrize(
    ("value", "joined"), [("a", "a"), ("a \\\n  b\\\nc", "a b c"), ("a\\\n", "a"), ("a\\b", "a\\b")]
)
def test_a_continued_value_is_joined_by_blanks(value, joined):
    assert join_continued(value) == joined


@pytest.mark.covers("1.4.2")
def test_an_unclosed_header_is_refused_in_linear_time():
    """Each line of a quarter of a megabyte is read once; reading all of them for each would take minutes."""
    with pytest.raises(UnitFileError, match="unable to find end of section"):
        parse_unit_file("[" + "\n" * MAX_UNIT_FILE_BYTES)


NOT_TEXT = [
    (b"[S]\nA=\xff", "byte 0xff at offset 6 (line 2) of the unit file is not UTF-8: save the file in UTF-8", 2),
    (b"[S]\nA=1\nB=\0", "NUL byte at offset 10 (line 3) of the unit file: remove it", 3),
    (
        b"#" * (MAX_UNIT_FILE_BYTES + 1),
        "the unit file has 262145 bytes, and at most 262144 are allowed: move what is large into a file of its own",
        None,
    ),
]


@pytest.mark.parametrize(("data", "message", "line"), NOT_TEXT, ids=["latin1", "nul", "large"])
def test_bytes_that_are_no_unit_file_are_refused_with_position_and_remedy(data, message, line):
    with pytest.raises(UnitFileError) as refusal:
        decode_unit_file(data)
    assert (str(refusal.value), refusal.value.line) == (message, line)


def test_bytes_up_to_the_limit_are_decoded():
    assert decode_unit_file("é".encode() * (MAX_UNIT_FILE_BYTES // 2)) == "é" * (MAX_UNIT_FILE_BYTES // 2)


@pytest.mark.covers("1.5.1", "1.5.2", "1.5.4")
def test_sections_are_written_in_one_piece_by_first_appearance():
    options = [UnitOption("B", "x", "1"), UnitOption("A", "y", ""), UnitOption("B", "x", "2 \\\n3")]
    assert render_unit_file(options) == "[B]\nx=1\nx=2 \\\n3\n\n[A]\ny=\n"


@pytest.mark.covers("1.5.3")
def test_no_options_are_the_empty_text():
    assert UnitFile.from_options(()) == UnitFile((), "", hash_unit_file(""))


@pytest.mark.covers("1.4.4", "1.4.11", "1.5.1", "1.5.2", "1.6.1", "1.6.2")
def test_a_unit_file_keeps_its_order_and_hashes_its_rendering():
    unit_file = UnitFile.parse("[A]\nx=1\n[B]\ny=2\n[A]\nz=é")
    assert [option.name for option in unit_file.options] == ["x", "y", "z"]
    assert unit_file.text == "[A]\nx=1\nz=é\n\n[B]\ny=2\n"
    assert unit_file.hash == hashlib.sha1(unit_file.text.encode()).hexdigest()


def test_the_first_value_counts_even_if_it_is_empty():
    options = parse_unit_file("[X]\nA=0\n[S]\nA=\nA=1\n")
    assert first_value(options, "S", "A") == ""
    assert first_value(options, "S", "a") is None


BLANKS = "the name has blanks around it, holds '=' or a line end, or begins like a comment or a section"
READ_BACK = (
    "the value has blanks around it, ends in a backslash, holds a comment, or has a line end without a backslash "
    "before it; "
)
UNWRITABLE = [
    (UnitOption("a]", "A", "1"), "the section's name holds a closing bracket; remove it"),
    (UnitOption("S", " A", "1"), BLANKS),
    (UnitOption("S", "A\x85", "1"), BLANKS),
    (UnitOption("S", "A=B", "1"), BLANKS),
    (UnitOption("S", "A=1\nB", "1"), BLANKS),
    (UnitOption("S", "A\rB", "1"), BLANKS),
    (UnitOption("S", "[A", "1"), BLANKS),
    (UnitOption("S", "#A", "1"), BLANKS),
    (UnitOption("S", ";A", "1"), BLANKS),
    (UnitOption("S", "A", "1 "), READ_BACK + "it would be read back as '1'"),
    (UnitOption("S", "A", "\n"), READ_BACK + "it would be read back as ''"),
    (UnitOption("S", "A", "1\\"), READ_BACK + r"it would be read back as '1\\\n'"),
    (UnitOption("S", "A", "1\\\n#2\\\n3"), READ_BACK + r"it would be read back as '1\\\n3'"),
    (UnitOption("S", "A", "1\n[T]\nB=2"), READ_BACK + "it would be read back as '1'"),
    (UnitOption("S", "A", "1\\\n\nB=2"), READ_BACK + r"it would be read back as '1\\\n'"),
    (UnitOption("S", "A", "1\0"), "it holds a NUL byte or half a surrogate pair; remove it"),
    (UnitOption("S", "A", "\ud800"), "it holds a NUL byte or half a surrogate pair; remove it"),
]


@pytest.mark.covers("1.10.1", "10.4.8")
@pytest.mark.parametrize(("option", "fault"), UNWRITABLE)
def test_an_option_that_a_file_would_change_is_refused_with_the_reason(option, fault):
    with pytest.raises(UnitFileError) as refusal:
        check_options([UnitOption("S", "Fine", "1"), option])
    assert str(refusal.value) == f"option {option.name!r} of section {option.section!r} cannot be written: {fault}"


@pytest.mark.covers("1.10.1")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("\n1", NEWLINE_IN_NAME),
        ("1\n[T] B=2", "found garbage after section name 'T': 'B=2'"),
    ],
)
def test_an_option_that_cannot_be_read_back_is_refused_with_the_parsers_error(value, message):
    with pytest.raises(UnitFileError) as refusal:
        check_options([UnitOption("S", "A", value)])
    assert str(refusal.value) == message


def test_options_of_a_file_that_is_too_large_are_refused():
    options = [UnitOption("S", "A", "x" * 2000)] * 131
    check_options(options[1:])
    with pytest.raises(UnitFileError, match="the options make a unit file of 262397 bytes"):
        check_options(options)


PIECES = st.sampled_from([*'\\\n\r []=#;ab"é', "\\\n", "\n[S]\n", "\nA=", "\x1c", "\xa0", "x" * 1024])
TEXTS = st.lists(PIECES, max_size=30).map("".join)
OPTIONS = st.builds(UnitOption, st.sampled_from(["S", "T", "a b", "]", "[\n"]), TEXTS, TEXTS)

LINES = [
    "[S]",
    "[T] ",
    "# c \\",
    ";",
    "",
    "  ",
    "A=b",
    " A = b \\",
    "B=\\",
    "=\\",
    "=x\r",
    "C=é\\\r",
    "D=e\\ ",
    "\xa0E=[S]",
]
FILES = st.lists(st.sampled_from(LINES), max_size=30).map("\n".join).map("[S]\n".__add__)


def grouped(options):
    """The options as a rendered text has them: section by section."""
    sections = list(dict.fromkeys(option.section for option in options))
    return tuple(sorted(options, key=lambda option: sections.index(option.section)))


def passes(option):
    try:
        check_options([option])
    except UnitFileError:
        return False
    return True


def survives(option):
    try:
        return parse_unit_file(render_unit_file([option])) == (option,)
    except UnitFileError:
        return False


@pytest.mark.covers("10.4.8")
@given(OPTIONS)
def test_an_option_is_accepted_exactly_if_it_is_read_back_unchanged(option):
    assert passes(option) == survives(option)


@given(st.lists(OPTIONS, max_size=30))
def test_options_accepted_singly_are_read_back_together(drawn):
    options = list(filter(passes, drawn))
    check_options(options)
    assert parse_unit_file(render_unit_file(options)) == grouped(options)


def _ends_in_backslash(value):
    return (len(value) - len(value.rstrip("\\"))) % 2 == 1


@given(FILES)
def test_only_values_ending_in_a_backslash_are_refused_from_a_file(text):
    options = parse_unit_file(text)
    assert [passes(option) for option in options] == [not _ends_in_backslash(option.value) for option in options]


@pytest.mark.covers("10.4.7")
@given(FILES)
def test_a_content_keeps_its_hash_however_often_it_is_stored(text):
    once = UnitFile.from_options(filter(passes, parse_unit_file(text)))
    assert UnitFile.parse(once.text) == UnitFile(grouped(once.options), once.text, once.hash)


@given(st.binary(max_size=200) | TEXTS.map(str.encode))
def test_any_bytes_are_read_or_refused(data):
    with suppress(UnitFileError):
        options = parse_unit_file(decode_unit_file(data))
        assert all(option.name == option.name.strip(WHITESPACE) for option in options)
