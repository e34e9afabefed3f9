"""What every benchmark stands on: a journaled disk, dockerd, podman, a registry and Wharfinger, all on that disk."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from core.demo import image
from core.local import LocalEngine
from core.store.paths import find_instance
from tests.imagemaker import busybox_archive
from tests.instance import end_instance

BRIDGE = "whbench0"
SUBNET = "172.31.251.1/24"
BUSYBOX = "bench/busybox:1"
TOOLS = "bench/tools:1"  # the demo's layer: shell, utilities, Python
HOUSE = Path(__file__).resolve().parents[2]


def sh(*command: str | Path, check: bool = True) -> str:
    """Run a command and return its output.

    :raises RuntimeError: it failed; its standard error is in the message
    """
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stderr}{done.stdout}")
    return done.stdout


def wait_for(ready: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Until ``ready()`` is true; an OSError in it counts as not yet.

    :raises TimeoutError: it never was
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ready():
                return
        time.sleep(0.02)
    raise TimeoutError(what)


def processes(*needles: str) -> list[int]:
    """Pids whose command line holds one of ``needles``; this process left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
                if any(needle in line for needle in needles):
                    found.append(int(entry.name))
    return found


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of living processes, their threads included (proc(5), stat fields 14 and 15)."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _answers(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), 1):
        return True


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def memory(folder: Path) -> Iterator[Path]:
    """Where every engine keeps what goes with a boot: in memory, as /run is on an ordinary host."""
    place = folder / "run"
    place.mkdir()
    sh("mount", "-t", "tmpfs", "-o", "mode=755", "bench-run", str(place))
    try:
        yield place
    finally:
        sh("umount", "--lazy", str(place))


@contextlib.contextmanager
def journaled_disk(folder: Path, gigabytes: int = 6) -> Iterator[Path]:
    """An ext4 with a journal on a loop device, gone afterwards."""
    image, mount = folder / "disk.img", folder / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(gigabytes << 30)
    sh("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
    sh("mount", "-o", "loop", image, mount)
    try:
        yield mount
    finally:
        sh("umount", "--lazy", mount, check=False)
        image.unlink()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=120)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(self._path)


class Docker:
    """dockerd with its own data root, socket and bridge; the API over one kept connection, and the command."""

    def __init__(self, folder: Path, disk: Path) -> None:
        self.socket, self._folder, self._data = folder / "docker.sock", folder, disk / "docker"
        self.marks = (str(self.socket), str(folder / "run/docker"))
        self._connection = _UnixConnection(self.socket)

    @contextlib.contextmanager
    def running(self, *, firewall: bool = False) -> Iterator[Docker]:
        """:param firewall: with its rules, and so with ports that are translated; the host must be the bench's own"""
        sh("ip", "link", "add", BRIDGE, "type", "bridge")
        daemon: subprocess.Popen[bytes] | None = None
        try:
            sh("ip", "address", "add", SUBNET, "dev", BRIDGE)
            sh("ip", "link", "set", BRIDGE, "up")
            options = ["--storage-driver", "overlay2", "--bridge", BRIDGE, "--ip6tables=false"]
            if not firewall:
                # Without iptables: nothing of the host's firewall is touched, and dockerd has less to do, not more.
                options += ["--iptables=false", "--ip-masq=false"]
            options += ["--data-root", str(self._data), "--exec-root", str(self._folder / "run/docker")]
            options += [
                "--pidfile",
                str(self._folder / "docker.pid"),
                "--host",
                f"unix://{self.socket}",
            ]
            with (self._folder / "dockerd.log").open("wb") as log:
                daemon = subprocess.Popen(["dockerd", *options], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            wait_for(lambda: self.call("GET", "/_ping", raw=True) == b"OK", "dockerd does not answer")
            yield self
        finally:
            if daemon is not None:
                _end(daemon)
            sh("ip", "link", "delete", BRIDGE, check=False)

    def call(self, method: str, path: str, body: object = None, *, raw: bool = False) -> Any:
        """One API request. :raises RuntimeError: dockerd's own message"""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            self._connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = self._connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {data.decode(errors='replace')}")
        return data if raw else json.loads(data or b"null")

    def command(self, *arguments: str | Path) -> list[str]:
        return ["docker", "--host", f"unix://{self.socket}", *map(str, arguments)]

    def create(self, image: str, *command: str, network: str = "default") -> str:
        body = {"Image": image, "Cmd": list(command), "HostConfig": {"NetworkMode": network}}
        return str(self.call("POST", "/containers/create", body)["Id"])

    def start(self, cid: str) -> None:
        self.call("POST", f"/containers/{cid}/start")

    def remove(self, cid: str) -> None:
        self.call("DELETE", f"/containers/{cid}?force=1&v=1")

    def pids(self) -> list[int]:
        """dockerd, containerd and its shims."""
        return processes(*self.marks)


class Wharf:
    """The instance under test: its environment, and the command."""

    def __init__(self, folder: Path, disk: Path) -> None:
        self.root, self.run = disk / "wharf", folder / "run/wharf"
        os.environ.update(WHARF_ROOT=str(self.root), WHARF_RUN=str(self.run))

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "tui", *map(str, arguments)]  # this tree, wherever `wharf` is installed from

    def pids(self) -> list[int]:
        """The launcher and the monitors."""
        return processes(str(self.run))

    def load(self, *sources: Path) -> None:
        """Load archives or layouts."""

        async def each() -> None:
            engine = await LocalEngine.open(self.root, self.run)
            for source in sources:
                async for _ in engine.load(source):
                    pass
            await engine.close()

        asyncio.run(each())

    def end(self) -> None:
        """Take everything away as the tests do: containers, networks, the launcher; and see that nothing is left."""
        asyncio.run(end_instance(find_instance(self.root, self.run)))


class Podman:
    """podman on the same disk, with storage of its own."""

    def __init__(self, folder: Path, disk: Path) -> None:
        self._options = ["--root", str(disk / "podman"), "--runroot", str(folder / "run/podman")]
        self._options += ["--storage-driver", "overlay", "--tmpdir", str(folder / "podman-tmp")]

    def command(self, *arguments: str | Path) -> list[str]:
        return ["podman", *self._options, *map(str, arguments)]


@dataclass
class Place:
    """Where one whole run takes place."""

    folder: Path
    disk: Path
    docker: Docker
    wharf: Wharf
    podman: Podman | None

    @contextlib.contextmanager
    def registry(self) -> Iterator[str]:
        """Debian's docker-registry on a free loopback port; yields ``127.0.0.1:PORT``."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = self.folder / "registry.yml"
        store = self.disk / "registry"
        config.write_text(
            f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {store}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
        )
        with (self.folder / "registry.log").open("wb") as log:
            server = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
        try:
            wait_for(partial(_answers, port), "the registry is silent")
            yield f"127.0.0.1:{port}"
        finally:
            _end(server)
            shutil.rmtree(store, ignore_errors=True)


def bring_images(place: Place) -> None:
    """The same two images on every side."""
    archive = busybox_archive(place.folder / "busybox.tar", BUSYBOX)
    layout = place.folder / "tools"
    layout.mkdir()
    image.write_layout(image.collect(), layout)
    index = json.loads((layout / "index.json").read_text())
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": TOOLS}
    (layout / "index.json").write_text(json.dumps(index))
    place.wharf.load(archive, layout)
    for source, name in ((f"oci-archive:{archive}", BUSYBOX), (f"oci:{layout}:{TOOLS}", TOOLS)):
        saved = place.folder / "saved.tar"
        sh("skopeo", "copy", "--quiet", source, f"docker-archive:{saved}:{name}")
        sh(*place.docker.command("load", "--input", saved))
        saved.unlink()
