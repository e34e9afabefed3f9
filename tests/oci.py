"""OCI bundles and ``wharf runtime``, for tests: a static busybox as root file system, and a config.json to change."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.oci.template import template
from tests.imagemaker import APPLETS, busybox
from tests.patience import patience

HOUSE = Path(__file__).resolve().parents[1]
Config = dict[str, Any]
# The host's ids of user namespaces here begin with this one. Not among those that useradd(8) gives to users: a test
# with such a user, in another process, ends all that runs by its ids; nor among those that engines give to containers.
MAPPED = 2_000_000_000


def make_rootfs(folder: Path) -> Path:
    """A root file system of one static program."""
    program = busybox()
    assert program is not None
    for name in ("bin", "etc", "tmp", "root", "proc", "sys", "dev", "data"):
        (folder / name).mkdir(parents=True)
    shutil.copy(program, folder / "bin/busybox")
    for applet in APPLETS:
        (folder / "bin" / applet).symlink_to("busybox")
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n")
    return folder


@dataclass
class Runtime:
    """The command line, with a root of its own below ``base``."""

    base: Path

    @property
    def root(self) -> Path:
        return self.base / "state"

    def argv(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-m", "tui", "runtime", "--root", str(self.root), *map(str, words)]

    def call(self, *words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run one command to its end; output as text. For ``create`` give a file as ``stdout``, which is inherited."""
        options: dict[str, Any] = {"cwd": HOUSE, "text": True, "stdin": subprocess.DEVNULL, **more}
        options.setdefault("timeout", patience(60))
        if "stdout" not in options:
            options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.run(self.argv(*words), check=False, **options)

    def good(self, *words: str | Path, **more: Any) -> str:
        """:returns: what it prints; anything but exit code 0 fails the test"""
        done = self.call(*words, **more)
        assert done.returncode == 0, f"{words}: {done.returncode} {done.stderr}"
        return done.stdout or ""

    def bundle(self, name: str, *argv: str, **process: Any) -> tuple[Path, Config]:
        """A bundle whose config.json runs ``argv``; write it with :func:`save` after changing it."""
        folder = self.base / name
        if not (folder / "rootfs").exists():
            make_rootfs(folder / "rootfs")
        config = template(rootless=False)
        own: Config = {**config["process"], "terminal": False, "args": list(argv) or ["sh"], **process}  # type: ignore[dict-item]
        config["process"] = own
        config["linux"]["cgroupsPath"] = f"/wharf-test-{os.getpid()}/{self.base.name}-{name}"  # type: ignore[index]
        return folder, config

    def run(self, name: str, *argv: str, change: Any = None, **process: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in the foreground, in a bundle that ``change(config)`` may change."""
        folder, config = self.bundle(name, *argv, **process)
        if change is not None:
            change(config)
        save(folder, config)
        return self.call("run", "--bundle", folder, name)

    def state(self, cid: str) -> Config:
        found: Config = json.loads(self.good("state", cid))
        return found

    def end(self) -> None:
        """Delete whatever a test has left, and see that nothing of it stays."""
        if self.root.exists() and any(self.root.iterdir()):
            for cid in self.call("list", "-q").stdout.split():
                self.call("delete", "--force", cid)
        assert not self.root.exists() or not list(self.root.iterdir())
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        assert not [place for place in mounts if place.startswith(str(self.base))]
        for base in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
            folder = base / f"wharf-test-{os.getpid()}"
            if folder.is_dir():
                assert not [sub for sub in folder.iterdir() if sub.is_dir()], f"{folder} has groups left"
                folder.rmdir()


def save(folder: Path, config: Config) -> Path:
    """Write a bundle's config.json."""
    (folder / "config.json").write_text(json.dumps(config))
    return folder
