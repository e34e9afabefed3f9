"""Options of a mount as config.json lists them (config.md, "Linux mount options"): which of them belong to the mount,
which to the file system, and which are orders to us."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from core.kernel import mount

# Option → bits that it sets and bits that it takes away. The access time is one field of several bits.
_ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (mount.ATTR_RDONLY, 0),
    "rw": (0, mount.ATTR_RDONLY),
    "nosuid": (mount.ATTR_NOSUID, 0),
    "suid": (0, mount.ATTR_NOSUID),
    "nodev": (mount.ATTR_NODEV, 0),
    "dev": (0, mount.ATTR_NODEV),
    "noexec": (mount.ATTR_NOEXEC, 0),
    "exec": (0, mount.ATTR_NOEXEC),
    "noatime": (mount.ATTR_NOATIME, mount.ATTR_ATIME),
    "strictatime": (mount.ATTR_STRICTATIME, mount.ATTR_ATIME),
    "relatime": (0, mount.ATTR_ATIME),
    "atime": (0, mount.ATTR_ATIME),
    "norelatime": (0, mount.ATTR_ATIME),
    "nostrictatime": (0, mount.ATTR_ATIME),
    "nodiratime": (mount.ATTR_NODIRATIME, 0),
    "diratime": (0, mount.ATTR_NODIRATIME),
    "nosymfollow": (mount.ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, mount.ATTR_NOSYMFOLLOW),
}
_PROPAGATION = {
    "private": mount.MS_PRIVATE,
    "slave": mount.MS_SLAVE,
    "shared": mount.MS_SHARED,
    "unbindable": mount.MS_UNBINDABLE,
}
# Of the file system itself, whatever is mounted from it.
_SUPERBLOCK = frozenset("sync dirsync lazytime mand".split())
# Without meaning for the kernel of today, or orders to mount(8) and to labelling engines.
_NO_EFFECT = frozenset("defaults async nomand nolazytime iversion noiversion silent loud z Z".split())


class Options:
    """What the options of one mount mean; shared, and not to be changed once it is parsed."""

    def __init__(self) -> None:
        self.attributes = 0
        self.cleared = 0
        self.deep_attributes = 0  # for everything below as well ("rro" …)
        self.deep_cleared = 0
        self.propagation: list[tuple[int, bool]] = []  # MS_*, recursively
        self.bind = False
        self.recursive = False  # the bind takes what is mounted below along
        self.remount = False
        self.copy_up = False  # a tmpfs begins with what the image has there
        self.map_ids = ""  # "", idmap, ridmap
        self.data: list[tuple[str, str | None]] = []

    def _set(self, bits: tuple[int, int]) -> None:
        on, off = bits
        self.attributes = self.attributes & ~off | on
        self.cleared = self.cleared & ~on | off

    def _set_deep(self, bits: tuple[int, int]) -> None:
        on, off = bits
        self.deep_attributes = self.deep_attributes & ~off | on
        self.deep_cleared = self.deep_cleared & ~on | off


def parse(options: Sequence[str]) -> Options:
    """A later option wins over an earlier one."""
    return _parse(tuple(options))


@functools.lru_cache(64)
def _parse(options: tuple[str, ...]) -> Options:
    found = Options()
    for option in options:
        if option in _ATTRIBUTES:
            found._set(_ATTRIBUTES[option])
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
            found._set_deep(_ATTRIBUTES[option[1:]])
        elif option in ("bind", "rbind"):
            found.bind, found.recursive = True, found.recursive or option == "rbind"
        elif option == "remount":
            found.remount = True
        elif option == "tmpcopyup":
            found.copy_up = True
        elif option in ("idmap", "ridmap"):
            found.map_ids = option
        elif option.removeprefix("r") in _PROPAGATION:
            found.propagation.append((_PROPAGATION[option.removeprefix("r")], option[0] == "r"))
        elif option in _SUPERBLOCK:
            found.data.append((option, None))
        elif option not in _NO_EFFECT:
            key, equals, value = option.partition("=")
            found.data.append((key, value if equals else None))
    return found


def known() -> list[str]:
    """The options that are no file system's own."""
    deep = [f"r{name}" for name in (*_ATTRIBUTES, *_PROPAGATION, "bind")]
    orders = ["bind", "remount", "tmpcopyup", "idmap", "ridmap"]
    return [*_ATTRIBUTES, *_PROPAGATION, *deep, *orders, *_SUPERBLOCK, *(_NO_EFFECT - {"z", "Z"})]


def root_propagation(word: str) -> tuple[int, bool]:
    """``linux.rootfsPropagation``: MS_* and whether it goes for everything below."""
    if not word:
        return mount.MS_PRIVATE, False  # what is bound keeps what its own options say
    return _PROPAGATION[word.removeprefix("r")], word[0] == "r"
