"""Unpack one layer into a directory, as overlayfs wants it.

The content is hostile. Nothing here looks up a path of more than one component except ``openat2`` below the layer's
own root, where a symbolic link anywhere in the path is an error (CVE-2021-32760, CVE-2025-47290); the last component
is only ever created, never opened if it exists (``O_EXCL``), so a link that the archive itself planted cannot be
written through.

Whiteouts (image-spec, layer.md): ``.wh.NAME`` becomes a character device 0:0, ``.wh..wh..opq`` the attribute
``trusted.overlay.opaque`` (kernel, overlayfs.rst; in a user namespace another: :mod:`core.images.owners`). Attributes
of overlayfs that the archive brings are refused: the kernel would follow a redirect to anywhere in the other layers.

Order within one entry: content, owner, mode, attributes, times. Changing the owner clears set-user-ID and file
capabilities; writing changes the times.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from isal.isal_zlib import crc32

from core.images import index, tar, xattrs
from core.images.explain import explain
from core.images.owners import Owners, opaque_name
from core.images.split import Recorder, write
from core.images.trash import delete_tree
from core.kernel.resolve import BENEATH, NO_SYMLINKS, NO_XDEV, open_in_root

MOST_ENTRIES = 2_000_000
_DEEPEST, _OPEN_DIRS = 200, 128  # directories in one path; descriptors kept
_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SET_ID = stat.S_ISUID | stat.S_ISGID  # writing takes them away from a file, but for the host's root
_HOLE = 64 * 1024  # bytes of zeroes in one piece that are not written
_ZEROES = memoryview(bytes(1024 * 1024))
_DEFAULT_ACL, _WHITEOUT = b"system.posix_acl_default", b".wh."
_MOST_MAJOR, _MOST_MINOR = 0xFFF, 0xFFFFF


class Unpacked:
    """What was made: bytes of file content, entries, and the directories that the archive used but did not hold."""

    def __init__(self, size: int, entries: int, implied: list[bytes]) -> None:
        self.size, self.entries, self.implied = size, entries, implied


class Unpacker:
    """Writes the entries of one archive below ``root_fd``.

    :param root_fd: the empty directory that becomes the layer
    :param aside_fd: a directory on the same file system, outside the layer, for what later entries replace
    :param owners: what this process may do
    """

    def __init__(self, root_fd: int, aside_fd: int, stream: Recorder, owners: Owners) -> None:
        self._root = root_fd
        self._aside = aside_fd
        self._stream = stream
        self._index = index.Writer()
        self._owners = owners
        self._all_owners = not owners.limited
        self._opaque = opaque_name(owners.limited)
        self._left_out: set[bytes] = set()  # device files that cannot be made here
        self._dirs: dict[bytes, int] = {b"": root_fd}
        self._times: dict[bytes, tuple[int, int]] = {}
        self._acls: dict[bytes, bytes] = {}
        self._implied: set[bytes] = set()
        self._always_own = False  # a directory passes on its group once one has the set-group-ID bit
        self._size = 0
        self._moved = 0
        self._makers: dict[bytes, Callable[[tar.Entry, int, bytes], None]] = {
            tar.FILE: self._file,
            tar.DIRECTORY: self._directory,
            tar.LINK: self._link,
            tar.SYMLINK: self._symlink,
            tar.CHAR: self._node,
            tar.BLOCK_DEVICE: self._node,
            tar.FIFO: self._node,
        }

    def run(self) -> Unpacked:
        """Unpack all of it.

        :raises Corrupt: the archive is damaged or means harm
        :raises NoSpace: the disk is full
        """
        count = 0
        for entry in tar.Reader(self._stream):
            count += 1
            if count > MOST_ENTRIES:
                raise tar.broken(f"it has more than {MOST_ENTRIES} entries")
            try:
                self._place(entry)
            except OSError as error:
                raise explain(error, entry.name) from error
        implied = sorted(self._implied)
        try:
            self._finish()
            needed = self._stream.finish(self._index, implied)
            for number in range(1, self._moved + 1):
                if b"%d" % number not in needed:
                    delete_tree(self._aside, str(number))
        except OSError as error:
            raise explain(error) from error
        return Unpacked(self._size, count, implied)

    def _place(self, entry: tar.Entry) -> None:
        name = entry.name
        if not name:
            self._root_entry(entry)
            return
        head, _, leaf = name.rpartition(b"/")
        if name.find(_WHITEOUT) >= 0 and b"/" + _WHITEOUT in b"/" + name and self._marker(entry, head, leaf):
            return
        self._index.add(entry)
        parent = self._dirs.get(head)
        self._makers[entry.kind](entry, self._open(head, make=True) if parent is None else parent, leaf)

    def _root_entry(self, entry: tar.Entry) -> None:
        if entry.kind != tar.DIRECTORY:
            raise tar.broken("its root is not a directory")
        self._index.add(entry)
        if b"" in self._times:
            self._index.replaced(b"")
        self._dress_directory(entry, self._root)

    # -- where --------------------------------------------------------------------------------------------------
    def _parent(self, path: bytes) -> int:
        fd = self._dirs.get(path)
        return self._open(path, make=True) if fd is None else fd

    def _open(self, path: bytes, *, make: bool) -> int:
        """A descriptor of the directory ``path``, kept for the next entries; ``make`` it where it is missing."""
        try:
            resolve = BENEATH | NO_SYMLINKS | NO_XDEV
            fd = open_in_root(self._root, os.fsdecode(path), _DIR_FLAGS, resolve=resolve)
        except FileNotFoundError:
            if not make:
                raise
            fd = self._imply(path)
        self._keep(path, fd)
        return fd

    def _imply(self, path: bytes) -> int:
        """Make a directory that the archive uses without holding it; its owner, mode and times are a lower layer's."""
        if path.count(b"/") >= _DEEPEST:
            raise tar.broken(f"a path has more than {_DEEPEST} directories")
        head, _, leaf = path.rpartition(b"/")
        parent = self._parent(head)
        os.mkdir(leaf, 0o755, dir_fd=parent)
        fd = os.open(leaf, _DIR_FLAGS, dir_fd=parent)
        if self._always_own:
            os.fchown(fd, 0, 0)
            os.fchmod(fd, 0o755)
        self._implied.add(path)
        self._times[path] = (0, 0)
        return fd

    def _keep(self, path: bytes, fd: int) -> None:
        if len(self._dirs) > _OPEN_DIRS:
            self._forget()
        old = self._dirs.get(path)
        if old is not None and old != fd:
            os.close(old)
        self._dirs[path] = fd

    def _forget(self) -> None:
        """Close the kept descriptors: too many, or one may no longer be what its path says."""
        del self._dirs[b""]
        for fd in self._dirs.values():
            os.close(fd)
        self._dirs = {b"": self._root}

    # -- what was there before ----------------------------------------------------------------------------------
    def _clear(self, parent: int, leaf: bytes, path: bytes) -> bool:
        """Take away what an earlier entry made at ``path``; True where that was a whiteout."""
        status = os.stat(leaf, dir_fd=parent, follow_symlinks=False)
        is_dir = stat.S_ISDIR(status.st_mode)
        if not is_dir and not (stat.S_ISREG(status.st_mode) and status.st_size):
            os.unlink(leaf, dir_fd=parent)
            self._index.replaced(path)
            return _is_whiteout(status)
        self._moved += 1
        # Renamed, not deleted in place: one step, whatever lies in it; and a file's content is part of the archive.
        os.rename(leaf, b"%d" % self._moved, src_dir_fd=parent, dst_dir_fd=self._aside)
        self._index.replaced(path, self._moved)
        if not is_dir:
            return False
        self._forget()
        below = path + b"/"
        for table in (self._times, self._acls):
            for gone in [known for known in table if known == path or known.startswith(below)]:
                del table[gone]
        self._implied = {known for known in self._implied if known != path and not known.startswith(below)}
        return False

    def _create(self, path: bytes, parent: int, leaf: bytes, make: Callable[[int], int | None]) -> int:
        """Call ``make(parent)``, again after clearing the way where something has the name."""
        try:
            return make(parent) or 0
        except FileExistsError:
            self._clear(parent, leaf, path)
            return make(self._parent(path.rpartition(b"/")[0])) or 0

    # -- kinds --------------------------------------------------------------------------------------------------
    def _file(self, entry: tar.Entry, parent: int, leaf: bytes) -> None:
        mode = entry.mode
        try:
            fd = os.open(leaf, _FILE_FLAGS, mode, dir_fd=parent)
        except FileExistsError:
            fd = self._create(entry.name, parent, leaf, lambda where: os.open(leaf, _FILE_FLAGS, mode, dir_fd=where))
        try:
            if entry.length:
                self._fill(fd, entry)
            uid, gid = (entry.uid, entry.gid) if self._all_owners else self._owners.of(entry.uid, entry.gid)
            if uid or gid or self._always_own or mode & _SET_ID:
                os.fchown(fd, uid, gid)
                os.fchmod(fd, mode)
            for key, value in entry.xattrs.items():
                self._xattr(fd, entry.name, key, value)
            os.utime(fd, ns=(entry.atime, entry.mtime))
        finally:
            os.close(fd)
        self._size += entry.size

    def _fill(self, fd: int, entry: tar.Entry) -> None:
        size, stream, row = entry.size, self._stream, self._index.count - 1
        # Most files are small, lie in one chunk, and have no holes to be looked for: a third of what follows.
        if size < _HOLE and entry.extents is None and (data := stream.small(row, size)) is not None:
            self._index.checked(crc32(data))
            if (done := os.write(fd, data)) < size:
                write(fd, data[done:])
            return
        stream.content(row, size, entry.extents)
        crc, holes = 0, entry.extents is not None
        for offset, length in entry.extents or ((0, size),):
            if offset:
                os.lseek(fd, offset, os.SEEK_SET)
            for piece in stream.pieces(length):
                crc = crc32(piece, crc)
                if len(piece) >= _HOLE and piece == _ZEROES[: len(piece)]:
                    os.lseek(fd, len(piece), os.SEEK_CUR)  # few archives tell of holes
                    holes = True
                else:
                    write(fd, piece)
        self._index.checked(crc)
        if holes:
            os.ftruncate(fd, entry.length)

    def _directory(self, entry: tar.Entry, parent: int, leaf: bytes) -> None:
        if entry.name.count(b"/") >= _DEEPEST:
            raise tar.broken(f"a path has more than {_DEEPEST} directories")
        opaque, made = False, True
        try:
            os.mkdir(leaf, entry.mode & 0o1777, dir_fd=parent)
        except FileExistsError:
            made = False
            if not stat.S_ISDIR(os.stat(leaf, dir_fd=parent, follow_symlinks=False).st_mode):
                # It was whited out and made anew: what lower layers have in it must not shine through.
                opaque = self._clear(parent, leaf, entry.name)
                os.mkdir(leaf, entry.mode & 0o1777, dir_fd=parent)
            elif entry.name not in self._implied:
                self._index.replaced(entry.name)
        fd = os.open(leaf, _DIR_FLAGS, dir_fd=parent)
        self._keep(entry.name, fd)
        self._implied.discard(entry.name)
        if opaque:
            os.setxattr(fd, self._opaque, b"y")
            self._index.mark(index.OPAQUE, entry.name)
        self._dress_directory(entry, fd, made=made)

    def _dress_directory(self, entry: tar.Entry, fd: int, *, made: bool = False) -> None:
        uid, gid = self._owners.of(entry.uid, entry.gid)
        # One just made is root's, and has its mode, but for the bits that mkdir(2) leaves out.
        if not made or uid or gid or self._always_own or entry.mode & _SET_ID:
            os.fchown(fd, uid, gid)
            os.fchmod(fd, entry.mode)
        self._always_own |= bool(entry.mode & stat.S_ISGID)
        for key, value in entry.xattrs.items():
            if key == _DEFAULT_ACL:
                self._acls[entry.name] = value  # at the end: files made below would inherit from it
            else:
                self._xattr(fd, entry.name, key, value)
        self._times[entry.name] = (entry.atime, entry.mtime)  # at the end: each file made below changes them

    def _link(self, entry: tar.Entry, parent: int, leaf: bytes) -> None:
        source = tar.clean(entry.link)
        head, _, name = source.rpartition(b"/")
        if not name or source == entry.name:
            raise tar.broken(f"{os.fsdecode(entry.name)!r} is a hard link to itself or to the root")
        if source in self._left_out:
            return
        origin = self._dirs.get(head)
        if origin is None:
            origin = self._open(head, make=False)
            parent = self._parent(entry.name.rpartition(b"/")[0])  # keeping `origin` may have closed it
        status = os.stat(name, dir_fd=origin, follow_symlinks=False)
        if _is_whiteout(status) or stat.S_ISDIR(status.st_mode):
            raise tar.broken(f"{os.fsdecode(entry.name)!r} is a hard link to a directory or a whiteout")
        try:
            os.link(name, leaf, src_dir_fd=origin, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            self._clear(parent, leaf, entry.name)
            origin, parent = self._pair(head, entry.name.rpartition(b"/")[0])
            os.link(name, leaf, src_dir_fd=origin, dst_dir_fd=parent, follow_symlinks=False)
        # Owner, mode, attributes and times are the file's, which the first entry has set.

    def _pair(self, first: bytes, second: bytes) -> tuple[int, int]:
        one = self._parent(first)
        two = self._parent(second)
        return self._dirs.get(first, one), two

    def _symlink(self, entry: tar.Entry, parent: int, leaf: bytes) -> None:
        if not entry.link:
            raise tar.broken(f"{os.fsdecode(entry.name)!r} is a symbolic link to nothing")
        self._create(entry.name, parent, leaf, lambda where: os.symlink(entry.link, leaf, dir_fd=where))
        self._dress_node(entry, leaf)

    def _node(self, entry: tar.Entry, parent: int, leaf: bytes) -> None:
        kind = {tar.CHAR: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}[entry.kind]
        major, minor = entry.major, entry.minor
        if not (0 <= major <= _MOST_MAJOR and 0 <= minor <= _MOST_MINOR):
            raise tar.broken(f"the device {os.fsdecode(entry.name)!r} has a number out of range")
        if entry.kind == tar.CHAR and not major and not minor:
            raise tar.broken(f"the device {os.fsdecode(entry.name)!r} is a whiteout of overlayfs in disguise")
        if self._owners.limited and entry.kind != tar.FIFO:
            self._left_out.add(entry.name)  # as other rootless engines do: it could not be used inside either
            return
        device = os.makedev(major, minor)
        self._create(entry.name, parent, leaf, lambda where: os.mknod(leaf, kind | entry.mode, device, dir_fd=where))
        self._dress_node(entry, leaf)

    def _dress_node(self, entry: tar.Entry, leaf: bytes) -> None:
        parent = self._parent(entry.name.rpartition(b"/")[0])
        uid, gid = self._owners.of(entry.uid, entry.gid)
        if uid or gid or self._always_own:
            os.chown(leaf, uid, gid, dir_fd=parent, follow_symlinks=False)
        if entry.xattrs:
            os.fchdir(parent)  # lsetxattr(2) takes no directory descriptor
            for key, value in entry.xattrs.items():
                self._xattr(leaf, entry.name, key, value)
        os.utime(leaf, ns=(entry.atime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _xattr(self, where: int | bytes, path: bytes, key: bytes, value: bytes) -> None:
        if xattrs.wanted(path, key, value):
            xattrs.put(where, path, key, value, limited=self._owners.limited)

    # -- whiteouts ----------------------------------------------------------------------------------------------
    def _marker(self, entry: tar.Entry, head: bytes, leaf: bytes) -> bool:
        """Handle a path with ``.wh.`` in it; True where it is dealt with.

        AUFS' own notes (``.wh..wh.plnk`` and the like) are passed over, as Docker does.
        """
        for part in entry.name.split(b"/"):
            if part.startswith(b".wh..wh.") and part != b".wh..wh..opq":
                self._stream.skip(entry.size)
                return True
        if b"/" + _WHITEOUT in b"/" + head:
            raise tar.broken(f"{os.fsdecode(entry.name)!r} lies below a whiteout")
        parent = self._parent(head)
        self._stream.skip(entry.size)
        if leaf == b".wh..wh..opq":
            os.setxattr(parent, self._opaque, b"y")
            self._index.mark(index.OPAQUE, head)
            return True
        name = leaf[len(_WHITEOUT) :]
        if name in (b"", b".", b".."):
            raise tar.broken(f"{os.fsdecode(entry.name)!r} whites out nothing that can have a name")
        path = head + b"/" + name if head else name
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)
            self._index.mark(index.WHITEOUT, path)
        except FileExistsError:
            # This layer has the name too: its own file hides the lower one, its own directory must not merge with it.
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.setxattr(self._parent(path), self._opaque, b"y")
                self._index.mark(index.OPAQUE, path)
        return True

    # -- the end ------------------------------------------------------------------------------------------------
    def _finish(self) -> None:
        for path, acl in self._acls.items():
            os.setxattr(self._dirs.get(path) or self._open(path, make=False), _DEFAULT_ACL, acl)
        for path, (atime, mtime) in self._times.items():
            if not path:
                continue
            head, _, leaf = path.rpartition(b"/")
            parent = self._dirs.get(head)
            parent = self._open(head, make=False) if parent is None else parent
            # Never through a link: CVE-2018-15664's kin, where a directory has been replaced by one meanwhile.
            os.utime(leaf, ns=(atime, mtime), dir_fd=parent, follow_symlinks=False)
        if b"" in self._times:
            os.utime(self._root, ns=self._times[b""])
        self._forget()


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
