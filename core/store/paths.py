"""Where one instance keeps its things, and the names that derive from it.

Data root (durable, mode 0700)::

    wharf.db                      durable truth (store/schema.py)
    images/                       owned by core.images: blobs/ layers/ …
    containers/ID/config.json     the OCI bundle (core.runtime.spec)
    containers/ID/{upper,work}    overlay's writable layer
    containers/ID/log/0.log[.N]   CRI text log
    containers/ID/checkpoints/    CRIU's images (core.ops.checkpoints)
    containers/ID/dump.log        CRIU's of the last checkpoint that failed
    containers/ID/exit.json       exit record of the last run (written by the monitor)
    containers/ID/{hosts,resolv.conf,hostname}
    base/diff                     the lowest layer of every container (core.runtime.points)
    volumes/NAME/
    archive.key                   seals exported checkpoints (core.ops.portable)
    trash/                        renamed away, deleted in the background

Run root (gone after a reboot, mode 0700)::

    trash/                        run folders on their way out
    run.db                        volatile truth: addresses, ports, endpoints
    bus/events                    the change log that every open engine watches (store/changes.py)
    launcher.sock  launcher.lock  the fork server
    engines/PID.sock              engines that take over clean-up (core.supervise)
    c/ID/{state.json,ctl.sock,stdin,stdout,stderr}
    journal/                      steps with their undo, of operations under way (store/journal.py)
    locks/                        one flock file per object
"""

from __future__ import annotations

import functools
import hashlib
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from core.errors import InvalidArgument
from core.kernel import acl
from core.kernel.userns import contained

DEFAULT_ROOT = Path("/var/lib/wharf")
DEFAULT_RUN = Path("/run/wharf")
ROOTLESS_UID = "WHARF_ROOTLESS_UID"  # environment: whose engine this is, where its process is root in a user namespace


@functools.lru_cache(1024)
def _below(base: Path, *names: str) -> Path:
    """Kept: making a path takes longer than asking for the file that it names."""
    return base.joinpath(*names)


@dataclass(frozen=True)
class Instance:
    """One data root with its run root. Bridges, nft tables and cgroups are named after it."""

    root: Path
    run: Path

    @functools.cached_property
    def tag(self) -> str:
        """Empty for the default instance, else six hex digits derived from the data root's path."""
        if self.root == DEFAULT_ROOT:
            return ""
        return hashlib.sha256(os.fsencode(self.root)).hexdigest()[:6]

    @property
    def bridge(self) -> str:
        """The default bridge: ``wharf0``, or ``wh`` + tag (an interface name has at most 15 characters)."""
        return f"wh{self.tag}" if self.tag else "wharf0"

    @property
    def nft_table(self) -> str:
        return f"wharf_{self.tag}" if self.tag else "wharf"

    @property
    def cgroup(self) -> str:
        """Name of the instance's folder in each cgroup hierarchy."""
        return f"wharf-{self.tag}" if self.tag else "wharf"

    @property
    def bridge_prefix(self) -> str:
        """Prefix of the bridges of further networks: 6 digits of the network's id follow."""
        return f"wb{self.tag}_"

    @property
    def shim_prefix(self) -> str:
        """Prefix of the host's own interfaces on macvlan networks: 6 digits of the network's id follow."""
        return f"wm{self.tag}_"

    @property
    def link_prefix(self) -> str:
        """Prefix of host-side veth names: ``w`` + tag + ``_``; then 3 digits of the container's id, 4 random ones."""
        return f"w{self.tag}_"

    def container_dir(self, cid: str) -> Path:
        return _below(self.root, "containers", cid)

    def container_run(self, cid: str) -> Path:
        return _below(self.run, "c", cid)

    def log_path(self, cid: str) -> Path:
        return _below(self.root, "containers", cid, "log", "0.log")

    @functools.cached_property
    def images(self) -> Path:
        return self.root / "images"

    @functools.cached_property
    def base(self) -> Path:
        return self.root / "base" / "diff"

    @functools.cached_property
    def trash(self) -> Path:
        return self.root / "trash"

    @functools.cached_property
    def events(self) -> Path:
        return self.run / "bus" / "events"

    @functools.cached_property
    def launcher_socket(self) -> Path:
        return self.run / "launcher.sock"

    @functools.cached_property
    def engines(self) -> Path:
        return self.run / "engines"

    def prepare(self) -> None:
        """Make the folders, each 0700: nothing below the data root is for other users (CVE-2021-41091).

        :raises InvalidArgument: one of them is a folder of somebody else's
        """
        below_root = ("containers", "images", "volumes", "trash")
        below_run = ("bus", "c", "engines", "journal", "locks", "trash")
        for base, names in ((self.root, below_root), (self.run, below_run)):
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
            others = {path.name for path in base.iterdir()} - {"lost+found"}  # a file system of its own has that
            if others and names[0] not in others:
                raise InvalidArgument(
                    f"cannot use {base}", "it is a folder with other things in it", "Name an empty or a new folder"
                )
            acl.drop(base)
            base.chmod(0o700)
            for name in names:
                (base / name).mkdir(mode=0o700, exist_ok=True)


def rootless_user() -> int | None:
    """The ordinary user whose engine this process is (see :mod:`core.rootless`); None for root's."""
    if user := os.geteuid():
        return user
    named = os.environ.get(ROOTLESS_UID, "")
    return int(named) if named.isdecimal() and contained() else None


def find_instance(root: Path | None = None, run: Path | None = None) -> Instance:
    """The instance named by the arguments, else by ``WHARF_ROOT``/``WHARF_RUN``, else the default.

    Root's default is ``/var/lib/wharf`` and ``/run/wharf``, a user's ``$XDG_DATA_HOME/wharf`` and
    ``$XDG_RUNTIME_DIR/wharf``. A root without a run folder gets one of its own beside the default one, named after its
    tag, so that two roots never share one.

    :raises InvalidArgument: there is no safe place for the run folder
    """
    user = rootless_user()
    usual = DEFAULT_ROOT if user is None else _data_home(user) / "wharf"
    root = (root or Path(os.environ.get("WHARF_ROOT") or usual)).absolute()
    named = run or (Path(os.environ["WHARF_RUN"]) if os.environ.get("WHARF_RUN") else None)
    if named is None:
        base = DEFAULT_RUN.parent if user is None else runtime_folder(user)
        named = base / ("wharf" if root == usual else f"wharf-{Instance(root, DEFAULT_RUN).tag}")
    return Instance(root, named.absolute())


def _data_home(user: int) -> Path:
    """XDG Base Directory Specification: a path that is not absolute is invalid and is ignored."""
    named = os.environ.get("XDG_DATA_HOME", "")
    if named.startswith("/"):
        return Path(named)
    home = os.environ.get("HOME", "")
    if not home.startswith("/"):
        try:
            home = pwd.getpwuid(user).pw_dir
        except KeyError:
            raise InvalidArgument(
                "there is no place for the data root", f"user {user} has no home", "Set HOME, or WHARF_ROOT"
            ) from None
    return Path(home) / ".local" / "share"


def runtime_folder(user: int) -> Path:
    """Where a user's run folders are: gone after a reboot, nobody else's, and the same in every session of theirs.

    ``$XDG_RUNTIME_DIR``, else what systemd makes for each user, else ``/tmp/wharf-UID``, which is made.

    :raises InvalidArgument: somebody else has made that one
    """
    # `su` without a dash leaves the variable of the other user: the owner says whose it is.
    for text in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{user}"):
        if text.startswith("/") and _is_private(text):
            return Path(text)
    place = f"/tmp/wharf-{user}"
    try:
        os.mkdir(place, 0o700)
    except FileExistsError:
        if not _is_private(place):
            raise InvalidArgument(
                f"cannot use {place}",
                "it is not a folder that belongs to you alone, and you have no XDG_RUNTIME_DIR",
                "Set XDG_RUNTIME_DIR to a folder of your own with mode 0700",
            ) from None
    return Path(place)


def _is_private(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    # Inside the user namespace the user is 0, and so the owner of these files is.
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
