"""Words of values: quotes and escapes as systemd reads them, and command lines that it reads back."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.quadlet.errors import InvalidQuadlet
from fleetd.model.quadlet.words import join_words, split_words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", []),
        ("  a \t b\n c\r", ["a", "b", "c"]),
        ("'a b' \"c d\"", ["a b", "c d"]),
        ("a'b c'd", ["ab cd"]),
        ('"" a', ["", "a"]),
        ("\"it's\" '\"'", ["it's", '"']),
        (r"a\ta \s \\ \"x\'", ["a\ta", " ", "\\", "\"x'"]),
        (r"\x41\u00e9\U0001F600\101", ["Aé😀A"]),
        ('"not closed', ["not closed"]),
        ("ends\\", ["ends"]),
        ("$HOME ${A} %n %%", ["$HOME", "${A}", "%n", "%%"]),
    ],
)
def test_words_are_split_as_systemd_splits_them(value: str, words: list[str]) -> None:
    assert split_words(value) == words


@pytest.mark.parametrize(
    "value", [r"\q", r"\x4", r"\xzz", r"\x00", r"\u12", r"\ud800", r"\U00110000", r"\400", r"\18", r"\x +", r"\x_1"]
)
def test_an_escape_that_there_is_not_is_refused(value: str) -> None:
    with pytest.raises(InvalidQuadlet, match="there is no escape"):
        split_words(value)


def test_a_backslash_is_a_character_where_escapes_are_not_read() -> None:
    assert split_words(r"'a\q b' c\ d", unescape=False) == [r"a\q b", "c\\", "d"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["/usr/bin/podman", "--opt=a,b", "%n", "$X"], "/usr/bin/podman --opt=a,b %n $X"),
        (["", ";", "a;b"], '"" ";" a;b'),
        (["a b", "it's", 'x"y', "a\\b"], r'''"a b" "it's" "x\"y" "a\\b"'''),
        (["\n\t\x01\x7f", "é", "\u2003"], '"\\n\\t\\x01\\x7f" é "\u2003"'),
    ],
)
def test_words_are_quoted_where_systemd_needs_it(words: list[str], line: str) -> None:
    assert join_words(words) == line


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_each_command_line_is_read_back_as_its_words(words: list[str]) -> None:
    assert split_words(join_words(words)) == words
    assert "\n" not in join_words(words)


@given(st.text())
def test_each_text_has_words_or_a_clear_refusal(text: str) -> None:
    with suppress(InvalidQuadlet):  # and nothing else
        split_words(text)
    split_words(text, unescape=False)
