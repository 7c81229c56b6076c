"""What counts as an unnecessary failover, and that the starvation ends with the test."""

import os
import subprocess
import time

from contrib.bench.starved import BUSY, busy_loops, find_changes


def test_units_that_run_as_before_are_no_change() -> None:
    assert list(find_changes({"m1": {"a.service": 7, "b.service": 0}}, {"m1": {"a.service": 7, "b.service": 0}})) == []


def test_a_moved_or_restarted_unit_is_found() -> None:
    before = {"m1": {"a.service": 7, "b.service": 8}, "m2": {"a.service": 0, "b.service": 0}}
    after = {"m1": {"a.service": 0, "b.service": 9}, "m2": {"a.service": 4, "b.service": 0}}
    assert list(find_changes(before, after)) == [
        "m1: a.service had process 7, and now has 0",
        "m1: b.service had process 8, and now has 9",
        "m2: a.service had process 0, and now has 4",
    ]


def test_no_busy_loop_is_left_behind() -> None:
    with busy_loops(2, nice=19):
        deadline_s = time.monotonic() + 10  # ps may look before a loop has become what it is to be
        while _loops() != 2 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert _loops() == 2
    assert _loops() == 0


def _loops() -> int:
    """The busy loops of this test."""
    command = ["ps", "--ppid", str(os.getpid()), "-o", "args="]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.count(BUSY)
