"""python -m contrib.man [DIRECTORY]: render the man pages into man1, man5 and man8 of this or the given directory."""

import sys
from pathlib import Path

from contrib.man.render import render_pages

if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit("usage: python -m contrib.man [DIRECTORY]")
    for path in render_pages(Path(sys.argv[1]) if len(sys.argv) == 2 else Path(__file__).parent):
        print(path)
