"""Runs inside fleetd (see tampering.py) and moves its clock by the seconds in the file that CLOCK in the environment
names.

Only Python's wall clocks move: containers share the kernel's clock.
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
