"""The lowest layer of every container: the mount points that an image may lack, and nothing else.

Otherwise init would have to make them in the container's own layer: slower (overlayfs takes 0.3 ms for each), and they
would be changes of the container's, in what is committed as well (docker has an "init" layer for each container, above
the image; this one lies below it, so that all can share it and the image's own win).
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from pathlib import Path

MOST_ABOVE = 499  # overlayfs takes 500 layers below the one that is written to
_FOLDER, _FILE = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644
_POINTS = {
    "": _FOLDER,
    **dict.fromkeys(("dev", "etc", "proc", "sys"), _FOLDER),
    **dict.fromkeys(("etc/hostname", "etc/hosts", "etc/resolv.conf"), _FILE),
}


@functools.lru_cache(8)
def lowest_layer(place: Path) -> Path:
    """The folder ``place``; what it lacks is made, by each engine once.

    In its place and piece by piece: others may be at it too, and what one that was killed has left out is made up for.

    :raises OSError:
    """
    for name, mode in _POINTS.items():
        path = os.path.join(place, name)
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(path).st_mode == mode:
                continue
        if mode != _FOLDER:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
        else:
            place.parent.mkdir(mode=0o700, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
        os.chmod(path, stat.S_IMODE(mode))
    return place
