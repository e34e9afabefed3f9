"""An ordinary user for tests of the rootless engine: made for the test, gone after it.

Not `su` and no session: a subprocess with that user's ids and a bare environment. The interpreter, the code and the
packages must be readable for that user: where the checkout lies in somebody's private folder, copies are made.
"""

from __future__ import annotations

import compileall
import contextlib
import functools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.patience import patience

Done = subprocess.CompletedProcess[str]
HOUSE = Path(__file__).resolve().parents[1]
_NEEDED = "import core.local, aiohttp, isal, backports.zstd, textual, sys; sys.exit(sys.version_info < (3, 11))"
_NOT_NEEDED = ("pip", "mypy*", "setuptools", "ruff*", "PIL", "pillow*", "cairo*", "_pytest", "pygments", "*.dist-info")
# Without a passwd entry: nothing of it is anywhere in /etc, nor in the ranges that useradd(8) gives. One for each test
# process: each ends all that its user runs.
SINGLE_UID = 700_000_000 + os.getpid()


@dataclass(frozen=True)
class Person:
    """:param ids: how many ids their containers have
    :param group: the folder of the cgroup (v2) that their commands are started in
    :param mounts: shell commands that root runs before each of theirs, in a mount namespace of its own
    """

    uid: int
    gid: int
    base: Path  # mode 0755; home and run below it are the user's own
    python: str
    path: str  # PYTHONPATH
    ids: int
    group: Path | None = None
    mounts: tuple[str, ...] = ()

    @property
    def home(self) -> Path:
        return self.base / "home"

    @property
    def run_folder(self) -> Path:
        return self.base / "run"

    @property
    def single(self) -> bool:
        return self.ids == 1

    @property
    def env(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.run_folder),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": self.path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
        }

    def popen(self, *argv: str, env: dict[str, str] | None = None, **more: object) -> subprocess.Popen[str]:
        who: dict[str, object] = {"user": self.uid, "group": self.gid, "extra_groups": []}
        steps = list(self.mounts)
        if self.group is not None:
            # Once the group passes controllers on, it takes no processes: the engine has moved them into `init` then.
            enter = f"{{ echo $$ >{self.group}/init/cgroup.procs; }} 2>/dev/null || echo $$ >{self.group}/cgroup.procs"
            steps.append(f"{{ {enter}; }}")
        if steps:
            become = f"exec setpriv --reuid {self.uid} --regid {self.gid} --clear-groups"
            argv = ("unshare", "--mount", "sh", "-c", " && ".join((*steps, f'{become} "$@"')), "sh", *argv)
            who = {}
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            argv,
            env=self.env if env is None else env,
            cwd=self.home,
            text=True,
            **who,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
        )

    def run(self, *argv: str, env: dict[str, str] | None = None, timeout: float = 60.0) -> Done:
        with self.popen(*argv, env=env) as process:
            try:
                out, err = process.communicate(timeout=patience(timeout))
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def code(self, program: str, env: dict[str, str] | None = None) -> Done:
        """Run a Python program."""
        return self.run(self.python, "-c", program, env=env)

    def wharf(self, *words: str, timeout: float = 60.0) -> Done:
        return self.run(self.python, "-m", "tui", *words, timeout=timeout)

    def ok(self, *words: str) -> str:
        """The output of a command that must succeed."""
        done = self.wharf(*words)
        assert done.returncode == 0, f"wharf {' '.join(words)}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def processes(self) -> dict[int, str]:
        """Pids with their command lines: of the user, and of the ids that their containers have."""
        subordinate = range(0)
        for line in Path("/etc/subuid").read_text().splitlines() if Path("/etc/subuid").exists() else ():
            owner, first, count = line.split(":")
            if not self.single and owner == pwd.getpwuid(self.uid).pw_name:
                subordinate = range(int(first), int(first) + int(count))
        found = {}
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if path.name.isdigit():
                    status = (path / "status").read_text()
                    uid = int(status.split("\nUid:\t")[1].split()[0])
                    if (uid == self.uid or uid in subordinate) and "\nState:\tZ" not in status:
                        found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def end(self) -> None:
        """End all that they left running."""
        limit = time.monotonic() + patience(10)
        while (left := self.processes()) and time.monotonic() < limit:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        assert not left


def why_not() -> str:
    """Why there can be no such user here; empty where there can."""
    if os.geteuid() != 0:
        return "needs root: it makes an ordinary user and becomes that user"
    probe = subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False, user=SINGLE_UID, cwd="/")
    return "" if probe.returncode == 0 else f"no user namespaces for users: {probe.stderr.decode().strip()}"


TOOLS = ("pasta", "slirp4netns")


def view(base: Path, *, tools: tuple[str, ...] = (), tun: bool = True) -> tuple[str, ...]:
    """For :attr:`Person.mounts`: a host with only these of :data:`TOOLS`, and a /dev/net/tun that everyone may open, or
    nobody."""
    node = base / "tun"
    make = [f"{{ [ -e {node} ] || mknod {node} c 10 200; }}", f"chmod {666 if tun else 600} {node}"]
    make += [f"mount --bind {node} /dev/net/tun"] * Path("/dev/net/tun").exists()
    paths = [shutil.which(name, path="/usr/bin:/usr/local/bin") for name in TOOLS if name not in tools]
    return (*make, *(f"mount --bind /dev/null {path}" for path in paths if path))


@contextlib.contextmanager
def single_person() -> Iterator[Person]:
    """A user whom /etc knows nothing of: containers have one id."""
    with _place(SINGLE_UID, SINGLE_UID) as (base, python, path):
        yield Person(SINGLE_UID, SINGLE_UID, base, python, path, 1)


@contextlib.contextmanager
def many_person() -> Iterator[Person]:
    """A user with 65536 subordinate ids. :raises LookupError: the host lacks a program for that"""
    for program in ("useradd", "userdel", "newuidmap", "newgidmap"):
        if shutil.which(program) is None:
            raise LookupError(f"needs {program} (Debian: passwd, uidmap)")
    name = f"wharftest{os.getpid()}"
    count = ("-K", "SUB_UID_COUNT=65536", "-K", "SUB_GID_COUNT=65536")
    subprocess.run(["useradd", "-M", "-N", *count, name], check=True, capture_output=True)
    try:
        entry = pwd.getpwnam(name)
        if f"{name}:" not in Path("/etc/subuid").read_text():
            raise LookupError("useradd gives no subordinate ids here")
        with _place(entry.pw_uid, entry.pw_gid) as (base, python, path):
            yield Person(entry.pw_uid, entry.pw_gid, base, python, path, 65537)
    finally:
        subprocess.run(["userdel", name], check=False, capture_output=True)


@contextlib.contextmanager
def _place(uid: int, gid: int) -> Iterator[tuple[Path, str, str]]:
    # Not pytest's own folder, which nobody else may enter.
    base = Path(tempfile.mkdtemp(prefix="wharf-person-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    try:
        base.chmod(0o755)
        for name in ("home", "run"):
            (base / name).mkdir(mode=0o700)
            os.chown(base / name, uid, gid)
        yield base, *_interpreter(base, uid)
    finally:
        shutil.rmtree(base)


@functools.cache
def _compile() -> None:
    """The user can write no bytecode beside the code: without this each of their commands would compile it anew."""
    for name in ("core", "tui"):
        compileall.compile_dir(HOUSE / name, quiet=2)


def _interpreter(base: Path, uid: int) -> tuple[str, str]:
    """An interpreter and a PYTHONPATH with which the user can run wharf. :raises LookupError: there is none"""
    _compile()
    site, version = Path(sysconfig.get_path("purelib")), f"{sys.version_info[0]}.{sys.version_info[1]}"
    candidates = [sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"]
    for house, packages in ((HOUSE, site), (base / "house", base / "site")):
        if house != HOUSE:
            for name in ("core", "tui", "themes"):
                shutil.copytree(HOUSE / name, house / name)
            shutil.copytree(site, packages, ignore=shutil.ignore_patterns(*_NOT_NEEDED))
        for python in candidates:
            env = {"PYTHONPATH": f"{house}:{packages}", "HOME": str(base / "home"), "PATH": "/usr/bin:/bin"}
            with contextlib.suppress(OSError):
                done = subprocess.run(
                    [python, "-c", _NEEDED], env=env, user=uid, cwd=base / "home", capture_output=True, check=False
                )
                if done.returncode == 0:
                    return python, env["PYTHONPATH"]
    raise LookupError(f"no Python {version} that an ordinary user may run")
