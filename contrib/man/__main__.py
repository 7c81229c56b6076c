"""python -m contrib.man DIRECTORY: write the man pages below it, in man1, man5 and man8."""

import sys
from pathlib import Path

from contrib.man.pages import write_pages

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m contrib.man DIRECTORY")
    for path in write_pages(Path(sys.argv[1])):
        print(path)
