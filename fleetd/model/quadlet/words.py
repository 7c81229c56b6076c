"""Words of a value, as systemd splits and quotes them (systemd.service(5), "COMMAND LINES").

A quote that is not closed reaches to the end of the value, and a backslash there is left out, as with podman.
"""

from collections.abc import Iterable, Iterator

from fleetd.model.quadlet.errors import InvalidQuadlet

_SEPARATORS = " \t\n\r"
_QUOTES = "\"'"
_ESCAPED = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    '"': '"',
    "'": "'",
    "s": " ",
}
_NUMBERED = {"x": 2, "u": 4, "U": 8}  # hexadecimal digits that follow
_WRITTEN = {char: f"\\{letter}" for letter, char in _ESCAPED.items() if letter not in "s'"}


def split_words(value: str, *, unescape: bool = True) -> list[str]:
    """The words of a value, without their quotes. `unescape`: backslashes begin the escapes of C; else they are
    characters like others. Raises InvalidQuadlet for an escape that there is not."""
    return list(_Splitter(value, unescape))


class _Splitter:
    """Iterates over the words of a text."""

    def __init__(self, text: str, unescape: bool) -> None:
        self._text = text
        self._unescape = unescape
        self._at = 0

    def __iter__(self) -> Iterator[str]:
        while True:
            self._skip_separators()
            if self._at == len(self._text):
                return
            yield "".join(self._word())

    def _skip_separators(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in _SEPARATORS:
            self._at += 1

    def _word(self) -> Iterator[str]:
        quote = ""
        while self._at < len(self._text):
            char = self._text[self._at]
            if not quote and char in _SEPARATORS:
                return
            self._at += 1
            if char == quote:
                quote = ""
            elif not quote and char in _QUOTES:
                quote = char
            elif char == "\\" and self._unescape:
                yield self._escaped()
            else:
                yield char

    def _escaped(self) -> str:
        """The character of the escape that begins here, after its backslash. Raises InvalidQuadlet."""
        letter = self._text[self._at : self._at + 1]
        if letter in _ESCAPED:  # '' at the end of the text is not among them
            self._at += 1
            return _ESCAPED[letter]
        if letter in _NUMBERED:
            return self._numbered(1, _NUMBERED[letter], 16)
        return self._numbered(0, 3, 8) if letter else ""

    def _numbered(self, skipped: int, count: int, base: int) -> str:
        digits = self._text[self._at + skipped : self._at + skipped + count]
        try:
            if len(digits) < count or not digits.isalnum() or not (number := int(digits, base)):
                raise ValueError
            char = chr(number)
            char.encode()
            if base == 8 and number > 0xFF:
                raise ValueError
        except (ValueError, OverflowError):  # of which the error of encoding is one
            escape = self._text[self._at - 1 : self._at + skipped + count]
            raise InvalidQuadlet(f'there is no escape "{escape}": write a backslash twice if you mean one') from None
        self._at += skipped + count
        return char


def join_words(words: Iterable[str]) -> str:
    """The command line of these words, from which systemd reads them back. `$` and `%` are left to systemd."""
    return " ".join(map(_quote, words))


def _quote(word: str) -> str:
    if word and word != ";" and not any(_needs_quotes(char) for char in word):
        return word
    return '"' + "".join(_write(char) for char in word) + '"'


def _needs_quotes(char: str) -> bool:
    return char.isspace() or char in _WRITTEN or char == "'" or _is_control(char)


def _write(char: str) -> str:
    return _WRITTEN.get(char) or (f"\\x{ord(char):02x}" if _is_control(char) else char)


def _is_control(char: str) -> bool:
    return char < " " or char == "\x7f"
