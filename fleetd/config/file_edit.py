"""Sets options in the text of a fleet.conf, and leaves the rest of it as it is. Pure."""

import re
from collections.abc import Mapping


def option_names(text: str) -> set[str]:
    """The options that the text sets, in lower case."""
    outside, _ = _split(text)
    return {_name(lines[0]) for lines in outside} - {""}


def set_options(text: str, options: Mapping[str, str]) -> str:
    """The text with these options, each once: in the place of the first line that sets it, else below the comment
    that shows its default, or before the first section, in which nothing would count."""
    outside, sections = _split(text)
    left = dict(options)
    kept: list[str] = []
    for lines in outside:
        name = _name(lines[0])
        if name not in options:
            kept += lines
        elif name in left:
            kept.append(f"{name}={left.pop(name)}")
    while kept and not kept[-1].strip():
        kept.pop()
    if left and kept and kept[-1].rstrip().endswith("\\"):
        kept.append("")  # what would continue with the next line
    for name, value in left.items():
        shown = next((at for at, line in enumerate(kept, start=1) if line.startswith(f"# {name}=")), len(kept))
        kept.insert(shown, f"{name}={value}")
    return "\n".join([*kept, *([""] if sections else []), *sections]).rstrip("\n") + "\n"


def _split(text: str) -> tuple[list[list[str]], list[str]]:
    """The lines outside of any section, those that a backslash continues together, and the lines of sections."""
    lines = text.split("\n")
    end = next((at for at, line in enumerate(lines) if line.strip().startswith("[")), len(lines))
    outside: list[list[str]] = []
    continues = False
    for line in lines[:end]:
        if continues:
            outside[-1].append(line)
        else:
            outside.append([line])
        continues = line.rstrip().endswith("\\") and outside[-1][0].strip()[0] not in "#;"
    return outside, lines[end:]


def _name(line: str) -> str:
    """The option that a line sets, in lower case; '' for a line that sets none."""
    found = re.match(r"\s*([^\s=#;\[][^\s=]*)\s*=", line)
    return found[1].lower() if found else ""
