"""Wants a whole CPU in waves of 20 seconds; its quota gives it a part of one."""

import math
import signal
import sys
import time

PERIOD = 20.0  # seconds a wave
SLICE = 0.05  # seconds of work and rest together

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the first process of a container has no default action
shown = -1
while True:
    now = time.monotonic()
    share = 0.5 - 0.5 * math.cos(now / PERIOD * 2 * math.pi)
    while time.monotonic() - now < SLICE * share:
        math.factorial(200)
    if share < 0.95:
        time.sleep(SLICE * (1 - share))
    if int(now / 5) != shown:
        shown = int(now / 5)
        print(f"wanting {share:4.0%} of a CPU", flush=True)
