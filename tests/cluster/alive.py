"""What a unit of tests runs: it notes all the time, with its process, that it is alive, by the clock that all machines
share. Run as `python3 -I alive.py FILE [deaf]`; a deaf one does not heed SIGTERM."""

import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

PERIOD_S = 0.02


def note_lives(path: Path) -> None:
    with path.open("a", buffering=1) as file:
        while True:
            file.write(f"{os.getpid()} {time.clock_gettime(time.CLOCK_BOOTTIME):.3f}\n")
            time.sleep(PERIOD_S)


def read_lives(path: Path) -> list[tuple[float, float]]:
    """Since when and until when each process was alive that has written into this file."""
    lives: dict[str, tuple[float, float]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        process, at_s = line.split()
        began_s, _ = lives.get(process, (float(at_s), 0.0))
        lives[process] = (began_s, float(at_s))
    return sorted(lives.values())


def find_overlap(lives: Iterable[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Two lives, one of which began before the other had ended; () if there are none."""
    in_order = sorted(lives)
    for one, other in pairwise(in_order):
        if other[0] <= one[1]:
            return one, other
    return ()


if __name__ == "__main__":
    if "deaf" in sys.argv[2:]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note_lives(Path(sys.argv[1]))
