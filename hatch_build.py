"""Renders the man pages when the package is built; pyproject.toml says where they go."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManPages(BuildHookInterface[Any]):
    """Writes the pages to build/man, from where the wheel takes them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is put together."""
        sys.path.insert(0, self.root)
        from contrib.man.pages import write_pages

        write_pages(Path(self.root, "build", "man"))
