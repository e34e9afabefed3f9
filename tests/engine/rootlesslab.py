"""An ordinary user for tests, without networks or with a tool that makes them, and what they have running."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.patience import patience
from tests.person import TOOLS, Person, many_person, single_person, view, why_not
from tests.world import carriers

REASON = why_not()
# One process, instead of one each for `ps`, `rm` and `network prune`.
CLEAN = """
import asyncio
from core import open_engine
async def main() -> None:
    engine = await open_engine()
    for box in await engine.containers():
        await engine.remove(box.id, force=True)
    await engine.prune_networks()
    await engine.close()
asyncio.run(main())
"""
SERVE = "exec nc -ll -p 80 -e echo hello"  # it listens all the time, also between two callers


# -- who
@contextlib.contextmanager
def _with_image(archive: Path, *, many: bool, tools: tuple[str, ...] = ()) -> Iterator[Person]:
    """A user who has the image busybox:test, on a host with these tools."""
    if REASON:
        pytest.skip(REASON)
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(many_person() if many else single_person())
        except LookupError as error:
            pytest.skip(str(error))
        found = replace(found, mounts=view(found.base, tools=tools))
        stack.callback(found.end)
        shutil.copy(archive, found.base / "busybox.tar")
        (found.base / "busybox.tar").chmod(0o644)
        found.ok("load", "-i", str(found.base / "busybox.tar"))
        yield found


@pytest.fixture(scope="module", name="person", params=["many ids", "one id"])
def some_person(request: pytest.FixtureRequest, archive: Path) -> Iterator[Person]:
    """A user without networks of their own, on every host: those are for :func:`connected_person`."""
    with _with_image(archive, many=request.param == "many ids") as found:
        yield found


@pytest.fixture(scope="module", name="person", params=["pasta", "slirp4netns", "pasta, many ids"])
def connected_person(request: pytest.FixtureRequest, archive: Path) -> Iterator[Person]:
    """A user with one of the two programs that carry the traffic of containers; it has ended with the last of them."""
    tool = request.param.partition(",")[0]
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool} (Debian: {'passt' if tool == 'pasta' else tool})")
    if not Path("/dev/net/tun").exists():
        pytest.skip("needs /dev/net/tun: modprobe tun")
    with _with_image(archive, many="many" in request.param, tools=(tool,)) as found:
        yield found
        wait_for("the end of what carried traffic", lambda: not carriers(found.uid))


@pytest.fixture(name="clean", autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing is left over for the next test: no container, no network, no proxy, no line to the uplink.

    The uplink itself stays for some seconds, for whoever comes next; here that is the next test.
    """
    yield
    if "person" not in request.fixturenames:
        return
    someone: Person = request.getfixturevalue("person")
    connected = bool(tools_of(someone))
    containers = someone.home / ".local/share/wharf/containers"
    if connected or (containers.exists() and any(containers.iterdir())):
        done = someone.code(CLEAN)
        assert done.returncode == 0, done.stderr
    if connected:
        wait_for("the end of proxies and lines", lambda: not _in_use(someone))
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(someone.base) not in mounts, "a mount is left in the host's namespace"


def _in_use(person: Person) -> list[str]:
    """Proxies, and uplinks that have more sockets than the one on which they listen."""
    found = []
    for pid, line in carriers(person.uid).items():
        if line.startswith("wharf-uplink"):
            with contextlib.suppress(FileNotFoundError):  # it has just ended
                links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
                if sum(link.startswith("socket:") for link in links) > 1:
                    found.append(line)
        elif line.startswith("wharf-proxy"):
            found.append(line)
    return found


def tools_of(person: Person) -> list[str]:
    """Of :data:`TOOLS`, what this user finds on the host."""
    return [name for name in TOOLS if shutil.which(name) and f"/{name}" not in " ".join(person.mounts)]


# -- what they have running
def wait_for(what: str, found: Callable[[], object], seconds: float = 30.0) -> None:
    limit = time.monotonic() + patience(seconds)
    while not found():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def one(person: Person, word: str) -> int:
    """The pid of the user's only process with that in its command line; one of the last test may be on its way out."""
    found: list[int] = []

    def single() -> bool:
        found[:] = [pid for pid, line in person.processes().items() if word in line]
        return len(found) == 1

    wait_for(f"the end of all {word} but one", single, 30)
    return found[0]


def launcher(person: Person) -> int:
    return one(person, "core.supervise.launcher")


# -- traffic
def ask(port: int, host: str = "127.0.0.1", data: bytes = b"", seconds: float = 30.0) -> bytes:
    """What a server says until it closes; it may need a moment to be there."""
    limit = time.monotonic() + patience(seconds)
    while True:
        try:
            with socket.create_connection((host, port), timeout=patience(10)) as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                if said := b"".join(iter(lambda: sock.recv(65536), b"")):
                    return said
        except OSError:
            pass
        assert time.monotonic() < limit, f"nobody answers on {host}:{port}"
        time.sleep(0.1)


@contextlib.contextmanager
def host_server(address: str) -> Iterator[int]:
    """Says who has called, on an address of this host."""
    with socket.create_server((address, 0)) as listener:
        listener.settimeout(0.2)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):  # nobody called yet, or whoever did has gone
                    client, peer = listener.accept()
                    with client:
                        client.sendall(f"from {peer[0]}\n".encode())
                        client.settimeout(0.5)
                        client.recv(1)  # pasta of 2023 loses this end where the client's half has ended before

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            stop.set()
            thread.join()


def call(address: str, port: int, seconds: int = 3) -> tuple[str, ...]:
    """What a container runs to hear what a server says.

    :param seconds: for each step; few where it is to hear nothing, or may call again
    """
    return "sh", "-c", f"timeout {2 * seconds} nc -w {seconds} {address} {port} || true"


def own_address() -> str:
    """One that this host has on the outside."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("needs a default route")
        return str(probe.getsockname()[0])
