"""Sphinx's configuration: `make docs` builds the web pages, `make man` the manuals."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from contrib.man.generated import fill_in
from fleetd import __version__

project = "fleet"
author = "the fleet authors"
copyright = author  # noqa: A001 (Sphinx's name)
release = version = __version__
today = "\N{NO-BREAK SPACE}"  # the same bytes on every day
extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
smartquotes = False
highlight_language = "none"
html_theme = "alabaster"
html_theme_options = {"description": "many Linux machines, one systemd", "fixed_sidebar": True, "page_width": "1100px"}
html_show_sphinx = False
html_show_copyright = False
man_pages = [
    ("man/fleetctl.1", "fleetctl", "control systemd units in a cluster", "", 1),
    ("man/fleetd.8", "fleetd", "the daemon of a fleet cluster", "", 8),
    ("man/fleet.conf.5", "fleet.conf", "configuration of fleetd", "", 5),
    ("man/fleet.unit.5", "fleet.unit", "units of a fleet cluster", "", 5),
]


def setup(app):
    """Fill in the generated parts of each page when it is read."""
    app.connect("source-read", lambda _app, _name, content: content.__setitem__(0, fill_in(content[0])))
