"""What the audience sees: an explanation, a command at a prompt, what it said. Nothing is decided or checked here."""

import os
import sys

BOLD, GREEN, DIM = "1", "32", "2"


def is_terminal() -> bool:
    """Whether a person watches."""
    return sys.stdout.isatty()


def paint(text: str, colour: str) -> str:
    """In a colour, where a person looks at it who has not asked for none (NO_COLOR, TERM=dumb)."""
    if not is_terminal() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def explain(text: str) -> None:
    print(f"\n{paint('# ' + text, BOLD)}", flush=True)


def prompt(command: str) -> None:
    print(f"{paint('$', GREEN)} {command}", flush=True)


def show(output: str) -> None:
    print(output, end="" if output.endswith("\n") or not output else "\n", flush=True)


def confirm(text: str) -> None:
    """What was checked, and found to be so."""
    print(f"  {paint('✓', GREEN)} {paint(text, DIM)}", flush=True)
