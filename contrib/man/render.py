"""Renders docs/man/*.md with Sphinx's man builder."""

import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def render_pages(directory: Path) -> list[Path]:
    """Write all pages below the directory, in the folders that man(1) looks in; their paths. Warnings are errors."""
    written = []
    with tempfile.TemporaryDirectory() as scratch:
        build = Path(scratch, "man")
        command = [
            sys.executable,
            "-m",
            "sphinx",
            "-q",
            "-W",
            "-b",
            "man",
            "-d",
            f"{scratch}/doctrees",
            str(DOCS),
            str(build),
        ]
        subprocess.run(command, check=True)
        for page in sorted(build.iterdir()):
            path = directory / f"man{page.suffix[1:]}" / page.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(page.read_bytes())
            written.append(path)
    return written
