"""The demo's output: explanations, commands at a prompt, and their output."""

import os
import sys

BOLD, GREEN, DIM = "1", "32", "2"


def is_terminal() -> bool:
    """True if the output goes to a terminal."""
    return sys.stdout.isatty()


def paint(text: str, colour: str) -> str:
    """The text in a colour, unless there is no terminal, NO_COLOR is set or TERM is dumb."""
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
    """Show a claim that was checked and holds."""
    print(f"  {paint('✓', GREEN)} {paint(text, DIM)}", flush=True)
