"""``Engine``: the one async protocol behind every face (workstation, command line, later the API server).

``open_engine()`` gives the engine that is embedded in this process. Several processes may each have one open on the
same data root: they share nothing but the disk and the kernel, and hear of each other's changes (``Engine.events``).

All methods raise only :mod:`core.errors`. A ``ref`` names an object by name, full id or unambiguous id prefix.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from core.engine_images import ImageEngine
from core.engine_images import ImageLayers as ImageLayers
from core.engine_networks import NetworkEngine
from core.engine_registries import RegistryEngine
from core.engine_storage import StorageEngine

if TYPE_CHECKING:
    from core.errors import WharfError
    from core.model import (
        Change,
        Check,
        Checkpoint,
        CheckpointOptions,
        Container,
        ContainerSpec,
        Event,
        ExecSpec,
        HostInfo,
        HostSample,
        LogLine,
        Sample,
    )


class Session(Protocol):
    """Both directions of an attached container or an exec."""

    @property
    def tty(self) -> bool:
        """True where output is one raw terminal stream."""
        ...

    async def read(self) -> tuple[str, bytes] | None:
        """The next chunk as (``stdout`` or ``stderr``, bytes); ``None`` at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Send ``data`` to the process's standard input; after its end: ignored."""
        ...

    async def close_stdin(self) -> None:
        """End of input (not for terminals)."""
        ...

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its size."""
        ...

    async def wait(self) -> int:
        """The exit code (128 + signal where a signal ended it)."""
        ...

    async def close(self) -> None:
        """Let go; the process runs on."""
        ...


class LogFile(Protocol):
    """Random access to one container's log for a screen: lines by number, whatever the size.

    Numbers count from the oldest line still kept. Methods are quick (no call reads more than the lines asked for
    plus one index block) and may be called from the event loop; :meth:`refresh` does a bounded piece of indexing
    work (``budget`` seconds) and returns True where more remains.
    """

    @property
    def indexed(self) -> bool:
        """True once every line is numbered; until then :meth:`tail` works and ``lines`` counts what is known."""
        ...

    @property
    def lines(self) -> int: ...

    @property
    def dropped(self) -> int:
        """How many lines rotation has taken away since the log was opened (line 0 moves by that much)."""
        ...

    def refresh(self, budget: float = 0.01) -> bool: ...

    def read(self, first: int, count: int) -> list[LogLine]: ...

    def tail(self, count: int) -> list[LogLine]: ...

    def find(self, needle: str, start: int, *, backwards: bool = False, limit: int = 100_000) -> int | None:
        """The number of the next line with ``needle`` (case-insensitive) at or after (before) ``start``."""
        ...

    def close(self) -> None: ...


class Engine(ImageEngine, NetworkEngine, RegistryEngine, StorageEngine, Protocol):
    """Everything a face may ask for."""

    # -- containers ---------------------------------------------------------------------------------------------
    async def containers(self, *, all: bool = True) -> list[Container]:
        """A snapshot, newest first; takes no object lock, so a stuck container never delays it."""
        ...

    async def container(self, ref: str) -> Container: ...

    async def create(self, spec: ContainerSpec) -> Container:
        """:raises NotFound: the image is not in the store (faces pull first). :raises NameTaken:"""
        ...

    async def start(self, ref: str) -> Container:
        """:raises StartFailed: nothing half-made stays behind. :raises PortTaken:"""
        ...

    async def start_attached(self, ref: str, *, stdin: bool = False) -> Session:
        """Start with a client attached from the first byte of output on."""
        ...

    async def attach(self, ref: str, *, stdin: bool = True) -> Session: ...

    async def stop(self, ref: str, *, timeout: float | None = None) -> Container:
        """The stop signal, then after ``timeout`` seconds (default: the container's own) SIGKILL."""
        ...

    async def kill(self, ref: str, signal: str = "KILL") -> None: ...

    async def restart(self, ref: str, *, timeout: float | None = None) -> Container: ...

    async def pause(self, ref: str) -> None: ...

    async def unpause(self, ref: str) -> None: ...

    async def remove(self, ref: str, *, force: bool = False) -> None: ...

    async def update(self, ref: str, change: Change) -> Container:
        """Other limits, another restart policy; for the container that runs at once, and for every later start.

        :raises InvalidArgument: a value that no container can have
        """
        ...

    async def checkpoint(
        self,
        ref: str,
        name: str = "",
        *,
        leave_running: bool = False,
        export: Path | None = None,
        options: CheckpointOptions | None = None,
    ) -> Checkpoint:
        """Save its processes, and end them unless ``leave_running``; with ``export`` into an archive, with its files.

        :raises Unsupported: criu is not installed or cannot do it. Every failure lets the container go on
        """
        ...

    async def restore(self, ref: str, name: str = "") -> Container:
        """Start it from a checkpoint ("" for its newest). :raises StartFailed: nothing half-made stays behind"""
        ...

    async def restore_from(self, archive: Path, *, name: str = "", trust: bool = False) -> Container:
        """Make a container of an exported checkpoint and go on with it; the image must be in the store.

        :param trust: also an archive that another engine made, who can become root by it
        """
        ...

    async def checkpoints(self, ref: str) -> list[Checkpoint]:
        """Those in the store, newest first."""
        ...

    async def remove_checkpoint(self, ref: str, name: str) -> None: ...

    async def wait(self, ref: str) -> int:
        """The exit code once the container no longer runs (-1 where nobody can know it)."""
        ...

    async def exec(self, ref: str, spec: ExecSpec) -> Session: ...

    async def inspect(self, ref: str) -> dict[str, object]:
        """Container, image or network in the shape of ``docker inspect``."""
        ...

    # -- logs and meters ----------------------------------------------------------------------------------------
    def logs(
        self,
        ref: str,
        *,
        tail: int | None = None,
        since: float | None = None,
        until: float | None = None,
        follow: bool = False,
    ) -> AsyncIterator[LogLine]:
        """Oldest first; ``since`` and ``until`` in seconds since the epoch; follow ends when the container does."""
        ...

    async def open_log(self, ref: str) -> LogFile: ...

    async def stats(self, refs: Sequence[str] | None = None) -> list[Sample]:
        """Counters of the named (default: all live) containers, read from the kernel now."""
        ...

    async def host_sample(self) -> HostSample: ...

    # -- the rest -----------------------------------------------------------------------------------------------
    def events(self, *, since: float | None = None, until: float | None = None) -> AsyncIterator[Event]:
        """Past events from ``since`` on, then live ones of every process, until ``until`` (None: for ever)."""
        ...

    async def info(self) -> HostInfo: ...

    async def doctor(self) -> list[Check]: ...

    def demo(self) -> AsyncIterator[str]:
        """Make the demo image and start its containers; yields a line per thing done."""
        ...

    async def recover(self) -> list[str]:
        """Search thoroughly for what a crash has left, release it, and from now on keep the firewall table whole.

        Opening does a light recovery; engines that stay open (the workstation) call this once after the first paint.

        :returns: what could not be mended, in words
        """
        ...

    async def close(self) -> None: ...


def become_root() -> None:
    """For programs of ordinary users that start threads before they open an engine: move this process into the user
    namespace in which it is root. :func:`open_engine` does it by itself, but can do so only in a process of one thread.

    Nothing happens where the process is root already.

    :raises NoPrivilege: the host does not allow user namespaces, or this process has threads
    """
    from core.rootless import enter

    enter()


async def open_engine(root: Path | None = None, run: Path | None = None) -> Engine:
    """Open the embedded engine; ``recover`` runs first.

    :param root: data root (default ``$WHARF_ROOT``, else ``/var/lib/wharf``, rootless ``$XDG_DATA_HOME/wharf``)
    :param run: runtime folder (default ``$WHARF_RUN``, else ``/run/wharf``, rootless ``$XDG_RUNTIME_DIR/wharf``)
    :raises NoPrivilege: not root and no way to be it (see :func:`become_root`)
    """
    # Late: the protocol is imported by faces that must paint before the engine's modules are loaded.
    from core.local import LocalEngine

    return await LocalEngine.open(root, run)


async def examine_host(error: WharfError, root: Path | None = None, run: Path | None = None) -> list[Check]:
    """:meth:`Engine.doctor` where :func:`open_engine` fails with ``error``, which is the first finding."""
    from core.local import examine

    return await examine(error, root, run)
