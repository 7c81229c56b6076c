"""Every page there is, and how they come to stand in files."""

from pathlib import Path

from contrib.man import conf_page, fleetctl_page, fleetd_page, roff, unit_page
from fleetd import __version__


def all_pages() -> list[roff.Page]:
    """The pages, in the order of the manual."""
    return [fleetctl_page.page(), conf_page.page(), unit_page.page(), fleetd_page.page()]


def write_pages(directory: Path) -> list[Path]:
    """Write all pages below a directory, as `man` looks for them; their paths."""
    written = []
    for page in all_pages():
        path = directory / page.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(roff.render(page, __version__), encoding="utf-8")
        written.append(path)
    return written
