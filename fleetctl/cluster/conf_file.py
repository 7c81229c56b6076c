"""Changes a fleet.conf and keeps what else stands in it: pure text."""

from collections.abc import Iterator, Mapping, Sequence


def set_options(text: str, options: Mapping[str, str]) -> str:
    """The text of a fleet.conf with these options set. A line that sets one is replaced where it stands; else one is
    added below the comment that shows its default, or before the first section."""
    before, after = _split_at_section([list(lines) for lines in _logical_lines(text)])
    kept: list[list[str]] = []
    left = dict(options)
    for lines in before:
        name = _name_set_by(lines[0])
        if name not in options:
            kept.append(lines)
        elif name in left:
            kept.append([f"{name}={left.pop(name)}"])
    for name, value in left.items():
        shown = next((at for at, lines in enumerate(kept, start=1) if lines[0].startswith(f"# {name}=")), 0)
        kept.insert(shown or _end_of(kept), [f"{name}={value}"])
    return "\n".join(line for lines in [*kept, *after] for line in lines).rstrip("\n") + "\n"


def _logical_lines(text: str) -> Iterator[Sequence[str]]:
    """The lines of the file, each with those that continue it after a backslash."""
    begun: list[str] = []
    for line in text.split("\n"):
        begun.append(line)
        if line.rstrip().endswith("\\") and not begun[0].strip().startswith(("#", ";")):
            continue
        yield begun
        begun = []
    if begun:
        yield begun


def _split_at_section(lines: list[list[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """What precedes the first `[section]`, in which fleetd reads nothing, and the rest."""
    for at, each in enumerate(lines):
        if each[0].strip().startswith("[") and each[0].strip().endswith("]"):
            return lines[:at], lines[at:]
    return lines, []


def _name_set_by(line: str) -> str:
    """The option that the line sets, '' if it sets none."""
    text = line.removeprefix("\ufeff").strip()
    name, equals, _ = text.partition("=")
    return "" if not equals or text.startswith(("#", ";")) else name.strip().lower()


def _end_of(lines: Sequence[Sequence[str]]) -> int:
    """Where to add a line: before the empty lines at the end."""
    end = len(lines)
    while end and not lines[end - 1][0].strip():
        end -= 1
    return end
