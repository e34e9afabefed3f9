"""Presses on its memory limit in waves: fills most of it, holds, gives it back."""

import signal
import sys
import time

MIB = 1024 * 1024
STEP = 2  # MiB
FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def limit() -> int:
    """The cgroup's memory limit in MiB (64 where it cannot be read: what the demo sets)."""
    for name in FILES:
        try:
            with open(name, encoding="ascii") as file:
                return int(file.read()) // MIB
        except (OSError, ValueError):
            continue
    return 64


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the first process of a container has no default action
allowed = min(limit(), 256)
# The interpreter itself needs some; above 85 % the kernel would begin to kill.
top = int(allowed * 0.85) - 10
print(f"limit {allowed} MiB, using up to {top} MiB of it", flush=True)
while True:
    held: list[bytearray] = []
    while len(held) * STEP < top:
        held.append(bytearray(b"\1") * (STEP * MIB))
        time.sleep(0.4)
    print(f"holding {len(held) * STEP} MiB", flush=True)
    time.sleep(6)
    held.clear()
    print("gave it back", flush=True)
    time.sleep(4)
