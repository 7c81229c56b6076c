"""Pages in roff, with the macros of man(7). What a page says is not this module's matter.

In texts, `word` is set in bold, and {word} in italics (for what is to be replaced).
"""

import re
from collections.abc import Iterable, Sequence

import msgspec

_MARKED = re.compile(r"`([^`]+)`|\{([A-Z][A-Z0-9_-]*)\}")


class Page(msgspec.Struct, frozen=True):
    """A page: its name, the manual's section that it belongs to, one line that says what it is about, its body."""

    name: str
    number: int
    purpose: str
    body: tuple[str, ...]

    @property
    def file(self) -> str:
        """Where it stands below a man directory."""
        return f"man{self.number}/{self.name}.{self.number}"


def escape(text: str) -> str:
    """Text as roff reads it: no character of it is taken for an order."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return "\n".join("\\&" + line if line.startswith(".") else line for line in text.split("\n"))


def mark(text: str) -> str:
    """Text with its marks set in bold and italics."""
    parts = []
    end = 0
    for found in _MARKED.finditer(text):
        parts.append(escape(text[end : found.start()]))
        parts.append(f"\\fB{escape(found[1])}\\fR" if found[1] else f"\\fI{escape(found[2])}\\fR")
        end = found.end()
    return "".join([*parts, escape(text[end:])])


def bold(text: str) -> str:
    """Words to be typed as they stand, where the text itself may hold marks."""
    return f"\\fB{escape(text)}\\fR"


def section(title: str, *body: str) -> str:
    """A section and what it holds."""
    return f".SH {escape(title.upper())}\n" + "\n".join(part for part in body if part)


def subsection(title: str, *body: str) -> str:
    """A part of a section."""
    return f'.SS "{escape(title)}"\n' + "\n".join(part for part in body if part)


def paragraph(text: str) -> str:
    """A paragraph; its line ends are blanks, an empty line begins another."""
    return "\n".join(f".PP\n{mark(' '.join(part.split()))}" for part in text.strip().split("\n\n"))


def entries(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of terms (in roff), each with its text."""
    return "\n".join(f".TP\n{term}\n{mark(' '.join(text.split()))}" for term, text in pairs)


def example(text: str) -> str:
    """Lines as they would be typed or stand in a file."""
    return f".PP\n.RS 4\n.EX\n{escape(text.strip(chr(10)))}\n.EE\n.RE"


def see_also(pages: Sequence[str]) -> str:
    """Where to read on: `name(section)`."""
    return section(
        "See also", ",\n".join(bold(page.partition("(")[0]) + "(" + page.partition("(")[2] for page in pages)
    )


def render(page: Page, version: str) -> str:
    """The whole page, as a file."""
    head = f'.TH {escape(page.name.upper())} {page.number} "" "fleet {version}" "fleet"'
    name = section("Name", f"{escape(page.name)} \\- {escape(page.purpose)}")
    return (
        "\n".join([".\\\" Rendered by contrib/man; a change belongs there, or into the programs' help.", head, name])
        + "\n"
        + "\n".join(page.body)
        + "\n"
    )
