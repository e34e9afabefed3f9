"""The demo's image, made from this host: its shell, core utilities, Python, and the libraries that those need.

It is one layer in an OCI image layout (image-spec, image-layout.md), with no network and no registry. The same files
give the same digest: owners are root, the order is sorted, times are the sources' own. :attr:`Recipe.key` changes
when one of the sources does, and is kept in a label of the image, so that an image already in the store is known.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from core.demo import elf
from core.errors import Unsupported

REFERENCE = "wharf/demo:latest"
KEY_LABEL = "wharf.demo.key"  # not io.wharfinger.*: those of an image are never kept
SCRIPTS = Path(__file__).parent / "scripts"

_MAKER = "1"  # raised when the same sources would give another image
_SEARCH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_REQUIRED = "sh cat date echo ls sleep"
_WANTED = (
    "awk base64 basename bash chmod clear cp cut dd df dirname du env expr false find free grep head hostname id ip "
    "less ln md5sum mkdir mktemp mv nice nproc od pgrep pkill printf ps pwd readlink rm rmdir sed seq sha256sum sort "
    "stat stty tail tee test top touch tput tr true tty uname uniq vi wc which whoami xargs yes"
)
# What the scripts import; found with all that comes along by asking the interpreter itself.
_MODULES = "encodings.ascii,encodings.latin_1,encodings.idna,json,math,random,signal,socketserver,threading,time"
_TERMINFO = "dumb linux screen screen-256color tmux tmux-256color vt100 xterm xterm-256color".split()
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FOLDERS = "demo dev etc home proc root run sys tmp usr/bin usr/lib usr/lib64 usr/sbin usr/share var/log var/tmp"
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/os-release": 'ID=wharf-demo\nNAME="Wharfinger demo"\nPRETTY_NAME="Wharfinger demo, made from this host"\n',
}


@dataclass
class Recipe:
    """What goes into the image. Paths inside are relative, without a leading slash."""

    files: dict[str, Path] = field(default_factory=dict)  # path inside → file on this host
    links: dict[str, str] = field(default_factory=lambda: dict(_LINKS))

    @property
    def key(self) -> str:
        """Hex digest over the names, sizes and times of all sources; costs one stat each."""
        told = hashlib.sha256(json.dumps([_MAKER, sorted(self.links.items()), _TEXTS]).encode())
        for inside, source in sorted(self.files.items()):
            seen = source.stat()
            told.update(f"{inside}\0{source}\0{seen.st_size}\0{seen.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return told.hexdigest()


def collect() -> Recipe:
    """Find everything on this host. Takes about 0.1 s.

    :raises Unsupported: the host has no shell, or a library is missing
    """
    recipe = Recipe()
    programs = _programs(recipe)
    programs += _python(recipe)
    found, loaders = elf.libraries(programs)
    libc = next((path for name, path in found.items() if name.startswith("libc.")), None)
    # All libraries go where the C library is: the loader looks there whatever their folder on this host was.
    home = _merged(str(libc.parent) if libc else "/usr/lib")
    for name, path in found.items():
        recipe.files[f"{home}/{name}"] = path
    for loader in loaders:
        recipe.files[_merged(loader)] = Path(loader)
    for name in _TERMINFO:
        for base in ("/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"):
            if (path := Path(base, name[0], name)).is_file():
                recipe.files.setdefault(f"usr/share/terminfo/{name[0]}/{name}", path)
    for path in SCRIPTS.iterdir():
        if path.suffix in (".sh", ".py"):
            recipe.files[f"demo/{path.name}"] = path
    return recipe


def _merged(path: str) -> str:
    """Where a host's path is in the image, which has only ``/usr/bin``, ``/usr/lib`` … and links to them."""
    relative = path.lstrip("/")
    return f"usr/{relative}" if relative.split("/")[0] in _LINKS else relative


def _programs(recipe: Recipe) -> list[Path]:
    homes: dict[Path, str] = {}
    for name in f"{_REQUIRED} {_WANTED}".split():
        where = shutil.which(name, path=_SEARCH)
        if where is None:
            if name in _REQUIRED.split():
                raise Unsupported(
                    f"the demo needs the program {name}", "it is not on this host", "Install the core utilities"
                )
            continue
        source = Path(where).resolve()
        # Several names for one program (busybox, vi): one file, and links to it.
        if source in homes:
            recipe.links[f"usr/bin/{name}"] = homes[source]
        else:
            homes[source] = name
            recipe.files[f"usr/bin/{name}"] = source
    return list(homes)


def _python(recipe: Recipe) -> list[Path]:
    """The interpreter that runs us, with the few modules the scripts use; returns what has libraries."""
    interpreter = Path(sys.executable or shutil.which("python3") or "").resolve()
    code = (
        f"import sys,{_MODULES}\n"
        "files={getattr(m,'__file__',None) for m in list(sys.modules.values())}\n"
        "print(sys.base_prefix,*filter(None,files),sep='\\n')"
    )
    # Frozen modules off: only then does every module tell the file it comes from.
    command = [str(interpreter), "-I", "-S", "-X", "frozen_modules=off", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Unsupported("the demo's Python was not found", done.stderr.strip(), "Repair the Python installation")
    prefix, *modules = done.stdout.splitlines()
    recipe.files["usr/bin/python3"] = interpreter
    binaries = [interpreter]
    for path in map(Path, modules):
        if not path.is_relative_to(prefix) or not path.is_file():
            continue
        recipe.files[f"usr/{path.relative_to(prefix)}"] = path
        if path.suffix == ".py":
            # Compiled already on this host, and valid in the image because the time of the source stays the same.
            cached = path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc"
            if cached.is_file():
                recipe.files[f"usr/{cached.relative_to(prefix)}"] = cached
        else:
            binaries.append(path)
    return binaries


def write_layout(recipe: Recipe, folder: Path) -> None:
    """Write the image as an OCI image layout into the empty ``folder``. Takes about 0.2 s and 40 MB.

    :raises OSError: a source vanished, or the disk is full
    """
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    with tarfile.open(folder / "layer", "w", format=tarfile.PAX_FORMAT) as tar:
        _fill(tar, recipe)
    with (folder / "layer").open("rb") as file:
        layer = hashlib.file_digest(file, "sha256").hexdigest()
    (folder / "layer").rename(blobs / layer)
    size = (blobs / layer).stat().st_size
    media = "application/vnd.oci.image"
    config = _put(blobs, _config(recipe, layer))
    manifest = _put(
        blobs,
        {
            "schemaVersion": 2,
            "mediaType": f"{media}.manifest.v1+json",
            "config": {"mediaType": f"{media}.config.v1+json", **config},
            "layers": [{"mediaType": f"{media}.layer.v1.tar", "digest": f"sha256:{layer}", "size": size}],
        },
    )
    names = {
        "io.containerd.image.name": f"docker.io/{REFERENCE}",
        "org.opencontainers.image.ref.name": REFERENCE.rpartition(":")[2],
    }
    index = {
        "schemaVersion": 2,
        "mediaType": f"{media}.index.v1+json",
        "manifests": [{"mediaType": f"{media}.manifest.v1+json", **manifest, "annotations": names}],
    }
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}', encoding="utf-8")


def _fill(tar: tarfile.TarFile, recipe: Recipe) -> None:
    inside = {*_FOLDERS.split(), *recipe.files, *recipe.links, *_TEXTS}
    for path in [*inside]:
        inside.update(str(parent) for parent in Path(path).parents if str(parent) != ".")
    for path in sorted(inside):
        entry = tarfile.TarInfo(path)
        entry.uname = entry.gname = "root"
        if path in recipe.links:
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, recipe.links[path], 0o777
            tar.addfile(entry)
        elif path in recipe.files:
            with recipe.files[path].open("rb") as file:
                seen = os.fstat(file.fileno())
                entry.size, entry.mtime = seen.st_size, int(seen.st_mtime)
                entry.mode = 0o755 if seen.st_mode & 0o111 or path.startswith("demo/") else 0o644
                tar.addfile(entry, file)
        elif path in _TEXTS:
            data = _TEXTS[path].encode()
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
        else:
            entry.type = tarfile.DIRTYPE
            entry.mode = {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700}.get(path, 0o755)
            tar.addfile(entry)


def _config(recipe: Recipe, layer: str) -> dict[str, object]:
    newest = max(int(source.stat().st_mtime) for source in recipe.files.values())
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(newest))
    machine = platform.machine()
    return {
        "created": created,
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine),
        "os": "linux",
        "config": {
            "Env": [f"PATH={_PATH}", "PYTHONUNBUFFERED=1"],
            "Cmd": ["bash" if "usr/bin/bash" in recipe.files else "sh"],
            "Labels": {KEY_LABEL: recipe.key, "org.opencontainers.image.title": "Wharfinger demo"},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
        "history": [{"created": created, "created_by": "wharf demo", "comment": "this host's own programs"}],
    }


def _put(blobs: Path, document: dict[str, object]) -> dict[str, object]:
    data = json.dumps(document, sort_keys=True).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}
