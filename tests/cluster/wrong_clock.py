"""Runs inside a fleetd (see tampering.py) whose clock is off by what a file says, CLOCK in the environment, in seconds.

Python's clocks of the day are moved alone: containers share the kernel's, which cannot be set apart for one of them.
"""

import os
import time

CLOCK = os.environ["CLOCK"]

true_time, true_time_ns = time.time, time.time_ns


def off_s() -> int:
    try:
        with open(CLOCK) as file:
            return int(file.read())
    except FileNotFoundError:
        return 0


time.time = lambda: true_time() + off_s()
time.time_ns = lambda: true_time_ns() + off_s() * 10**9
