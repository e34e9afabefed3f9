"""Debian's ``dockerd`` for tests: in folders of its own, of which nothing stays."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.patience import patience


@contextlib.contextmanager
def dockerd(*options: str) -> Iterator[list[str]]:
    """Run one with these options; gives the words with which a command of its client begins."""
    # Not below tmp_path: a path of more than 107 bytes is no address for its sockets and containerd's (unix(7)).
    place = Path(tempfile.mkdtemp(prefix="dockerd-"))
    host = ("--host", f"unix://{place}/sock")
    argv = ["dockerd", "--data-root", f"{place}/data", "--exec-root", f"{place}/exec", "--pidfile", f"{place}/pid"]
    with (place / "log").open("wb") as log:
        daemon = subprocess.Popen([*argv, *host, *options], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    client = ["docker", *host]
    try:
        end = time.monotonic() + patience(60)
        while subprocess.run([*client, "version"], capture_output=True, check=False).returncode:
            assert time.monotonic() < end, (place / "log").read_text()[-2000:]
            time.sleep(0.1)
        yield client
        left = subprocess.run([*client, "ps", "-aq"], capture_output=True, text=True, check=False).stdout.split()
        if left:
            subprocess.run([*client, "rm", "-f", *left], capture_output=True, check=False)
    finally:
        daemon.terminate()
        daemon.wait(patience(60))
        subprocess.run(["umount", "-l", f"{place}/data"], check=False, capture_output=True)
        shutil.rmtree(place, ignore_errors=True)
