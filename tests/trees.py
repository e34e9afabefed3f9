"""Trees with everything in them that a layer can hold, and what can be said of them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep, version 2
LATIN = b"caf\xe9"


def rich(top: Path) -> Path:
    """Make ``top`` with a file of every kind (as root)."""
    top.mkdir(parents=True, exist_ok=True)
    for name in ("d", "d/deep", "empty", "sticky"):
        (top / name).mkdir()
    os.chmod(top / "sticky", 0o1777)
    (top / "d/plain").write_bytes(b"plain" * 1000)
    (top / "d/deep/one").write_bytes(b"1")
    (top / "nothing").touch()
    (top / "suid").write_bytes(b"#!")
    os.chown(top / "suid", 3_000_000, 4_000_000)
    os.chmod(top / "suid", 0o6755)
    (top / "capable").write_bytes(b"binary" * 100)
    os.setxattr(top / "capable", "security.capability", CAPABILITY)
    os.link(top / "capable", top / "d/capable-too")
    os.link(top / "d/plain", top / "plain-too")
    os.setxattr(top / "d/plain", "user.note", b"a\0b\n\xff")
    os.setxattr(top / "d", "user.folder", b"x")
    os.symlink("d/plain", top / "link")
    os.symlink("/" + "t" * 300, top / "long-link")
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(top / "block", 0o600 | stat.S_IFBLK, os.makedev(4095, 1048575))
    (top / os.fsdecode(LATIN)).write_bytes(b"latin")
    (top / "new\nline").write_bytes(b"")
    (top / "ünïcode").write_bytes(b"u")
    long = top / ("p" * 120) / ("q" * 200) / ("r" * 250)
    long.mkdir(parents=True)
    (long / "file").write_bytes(b"far away")
    with open(top / "sparse", "wb") as file:
        for at in (1 << 20, 5 << 20):
            file.seek(at)
            file.write(b"data" * 3000)
        file.truncate(9 << 20)
    with open(top / "hole", "wb") as file:
        file.truncate(1 << 21)
    (top / "big").write_bytes(os.urandom(1 << 20) * 3 + b"odd")
    times = {"d/plain": 1_600_000_000_123_456_789, "nothing": -86_400_500_000_000, "link": 1_500_000_000_000_000_001}
    for name, when in times.items():
        os.utime(top / name, ns=(when, when), follow_symlinks=False)
    for name in ("d/deep", "d", "sticky"):
        os.utime(top / name, ns=(7, 1_400_000_000_000_000_007))
    return top
