"""An interpreter that a container cannot get at.

A process that goes into a container was executed from the host's Python. What gets hold of that file by
``/proc/PID/exe`` must not be able to write it (CVE-2019-5736): so it is executed through something that is read-only.
"""

from __future__ import annotations

import fcntl
import os

from core.kernel import mount

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_CHUNK = 1 << 24


def unwritable(path: str) -> int:
    """A descriptor of a file, for execve(2) by ``/proc/self/fd/N``, that leads to no way of writing it: a detached,
    read-only mount of it, or where we may not mount a sealed copy in memory.

    :raises OSError:
    """
    real = os.path.realpath(path)
    try:
        view = mount.clone_tree(real)
        mount.set_attributes(view, mount.ATTR_RDONLY | mount.ATTR_NOSUID)
        return view
    except PermissionError:
        return _sealed_copy(real)


def _sealed_copy(path: str) -> int:
    copy = os.memfd_create("python", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while os.sendfile(copy, source, None, _CHUNK):
            pass
    finally:
        os.close(source)
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    return copy
