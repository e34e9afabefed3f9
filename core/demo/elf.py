"""What a program needs to be loaded: its interpreter and shared libraries, read from the ELF file itself.

Sources: the System V ABI's ELF chapters (elf(5)) for the file format, ld.so(8) for the order of the search. Nothing
is executed to find out: ``ldd`` runs the program, and may not be there.
"""

from __future__ import annotations

import glob
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import Unsupported

_PT_DYNAMIC, _PT_INTERP, _PT_LOAD = 2, 3, 1
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29
# ld.so(8): /lib and /usr/lib come last, on some 64-bit systems /lib64; Debian adds its multiarch folders.
_DEFAULT_DIRS = ("/lib/*-linux-*", "/usr/lib/*-linux-*", "/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib")


@dataclass(frozen=True)
class Elf:
    """The part of an ELF file that decides what is loaded beside it."""

    path: Path
    kind: tuple[int, int, int]  # class (32 or 64 bit), byte order, machine: libraries must have the same
    interpreter: str  # absolute path of the dynamic loader, empty in libraries and static programs
    needed: tuple[str, ...]
    search: tuple[str, ...]  # DT_RUNPATH or DT_RPATH, $ORIGIN replaced


def read_elf(path: Path) -> Elf | None:
    """The ELF file at ``path``; ``None`` where it is something else (a script).

    :raises OSError: the file cannot be read
    """
    data = path.read_bytes()
    if len(data) < 64 or data[:4] != b"\x7fELF":
        return None
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
    machine = struct.unpack_from(order + "H", data, 18)[0]
    segments = list(_segments(data, wide, order))
    interpreter = next((_text(data, offset) for kind, offset, _, _ in segments if kind == _PT_INTERP), "")
    needed, search = _dynamic(data, wide, order, segments)
    origin = str(path.resolve().parent)
    folders = tuple(
        folder.replace("${ORIGIN}", origin).replace("$ORIGIN", origin) for folder in search.split(":") if folder
    )
    return Elf(path, (data[4], data[5], machine), interpreter, needed, folders)


def _segments(data: bytes, wide: bool, order: str) -> Iterator[tuple[int, int, int, int]]:
    """(type, file offset, virtual address, size in the file) of each program header."""
    if wide:
        start, size, count = (*struct.unpack_from(order + "Q", data, 32), *struct.unpack_from(order + "HH", data, 54))
    else:
        start, size, count = (*struct.unpack_from(order + "I", data, 28), *struct.unpack_from(order + "HH", data, 42))
    for index in range(count):
        at = start + index * size
        if wide:
            kind, _, offset, address, _, length = struct.unpack_from(order + "IIQQQQ", data, at)
        else:
            kind, offset, address, _, length = struct.unpack_from(order + "IIIII", data, at)
        yield kind, offset, address, length


def _dynamic(
    data: bytes, wide: bool, order: str, segments: list[tuple[int, int, int, int]]
) -> tuple[tuple[str, ...], str]:
    """DT_NEEDED names and the search path of the dynamic section."""
    form, step = (order + "qQ", 16) if wide else (order + "iI", 8)
    entries: list[tuple[int, int]] = []
    for kind, offset, _, length in segments:
        if kind == _PT_DYNAMIC:
            entries = [struct.unpack_from(form, data, at) for at in range(offset, offset + length - step + 1, step)]
    tags = dict(entries)
    if _DT_STRTAB not in tags:
        return (), ""
    # DT_STRTAB is a virtual address: the load segment that holds it tells where it is in the file.
    table = next(
        tags[_DT_STRTAB] - address + offset
        for kind, offset, address, length in segments
        if kind == _PT_LOAD and address <= tags[_DT_STRTAB] < address + length
    )
    needed = tuple(_text(data, table + value) for tag, value in entries if tag == _DT_NEEDED)
    where = tags.get(_DT_RUNPATH, tags.get(_DT_RPATH))
    return needed, "" if where is None else _text(data, table + where)


def _text(data: bytes, at: int) -> str:
    return os.fsdecode(data[at : data.index(b"\0", at)])


def _configured(path: str = "/etc/ld.so.conf") -> Iterator[str]:
    """Folders named in ld.so.conf and in what it includes (ldconfig(8))."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.partition("#")[0].split()
        if words[:1] == ["include"]:
            for pattern in words[1:]:
                for included in sorted(glob.glob(os.path.join(os.path.dirname(path), pattern))):
                    yield from _configured(included)
        elif words:
            yield words[0]


def libraries(programs: Iterable[Path]) -> tuple[dict[str, Path], set[str]]:
    """All shared libraries that ``programs`` need, directly or not, and their dynamic loaders.

    :returns: soname → file on this host, and the loaders' absolute paths as the programs name them
    :raises Unsupported: a library is not on this host
    """
    defaults = [*_configured(), *(folder for pattern in _DEFAULT_DIRS for folder in sorted(glob.glob(pattern)))]
    found: dict[str, Path] = {}
    loaders: set[str] = set()
    waiting = [elf for program in programs if (elf := read_elf(program))]
    while waiting:
        elf = waiting.pop()
        if elf.interpreter:
            loaders.add(elf.interpreter)
        for name in elf.needed:
            if name not in found:
                library = _find(name, elf, defaults)
                found[name] = library.path
                waiting.append(library)
    return found, loaders


def _find(name: str, elf: Elf, defaults: list[str]) -> Elf:
    for folder in (*elf.search, *defaults):
        path = Path(folder, name)
        if path.is_file() and (library := read_elf(path)) and library.kind == elf.kind:
            return library
    raise Unsupported(
        f"the library {name} was not found",
        f"{elf.path} needs it, and it is in none of the dynamic loader's folders",
        "Install it, or pull an image instead of using the demo's",
    )
