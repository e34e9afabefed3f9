"""Wharfinger's container engine, on one page.

A container is a process that the kernel shows a smaller world. That takes seven steps, each in a room of its own:

1. **An image is a stack of folders.** ``images/`` fetches the layers of an image from a registry (or an archive),
   checks every digest, and unpacks each layer into a folder named by the digest of its content.
2. **overlayfs stacks them.** The layers are read-only; one empty folder on top takes what the container writes.
   ``runtime/rootfs.py`` mounts that inside the container's own mount namespace: the host never sees the mount, so
   none can be left behind.
3. **Namespaces hide the rest.** ``runtime/init.py`` unshares pid, mount, uts, ipc, network and cgroup namespaces,
   pivots into the new root, masks what is dangerous in /proc and /sys, drops capabilities, installs the seccomp
   filter, and executes the command. Each step says why it stands where it stands.
4. **Cgroups limit and count.** ``cgroups/`` sets memory, CPU and process limits and reads the meters, on cgroup v1,
   hybrid and v2.
5. **A wire leads out.** ``net/`` makes a veth pair into a bridge, gives an address, masquerades, and publishes ports
   by one element in an nftables map each; all over netlink, no binary.
6. **Somebody must stay.** There is no daemon. ``supervise/`` has a launcher (a warm fork server, for speed) and one
   small monitor per running container, which writes its log, its exit code, and restarts it. Both outlive whoever
   started them.
7. **The truth is on disk.** ``store/`` keeps it in SQLite, notes the undo of each step before it is taken, and tells
   every open engine of each change. What a crash leaves, ``ops/recover.py`` releases.

``ops/`` puts the steps in order, one verb per file: read ``ops/start.py`` from top to bottom. ``engine.py`` is the
protocol that the workstation and the command line use; ``local.py`` implements it with the above::

    import asyncio
    from core import ContainerSpec, open_engine

    async def main() -> None:
        engine = await open_engine()
        box = await engine.create(ContainerSpec(image="debian:12", command=("echo", "hello")))
        await engine.start(box.id)
        print(await engine.wait(box.id), [line.text async for line in engine.logs(box.id)])
        await engine.remove(box.id)
        await engine.close()

    asyncio.run(main())

An import points only to a lower room: words (``model``, ``errors``, ``units``, ``names``) < ``kernel`` < ``store`` <
mechanisms (``runtime``, ``cgroups``, ``images``, ``net``, ``logs``, which never import each other) < ``supervise`` <
``rootless`` (an ordinary user's engine is root in a user namespace) < ``oci`` < ``ops`` < ``demo`` < ``local``. The
faces (``cli``, and the ``tui`` package) import the words and ``engine`` alone.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing's, which is slow to import: small processes load this package too
if TYPE_CHECKING:
    from core.engine import Engine, open_engine
    from core.errors import WharfError
    from core.model import Container, ContainerSpec, ExecSpec, Image, Network

__version__ = "0.1.0"
__all__ = ["Container", "ContainerSpec", "Engine", "ExecSpec", "Image", "Network", "WharfError", "open_engine"]

_HOMES = {"Engine": "core.engine", "open_engine": "core.engine", "WharfError": "core.errors"}


def __getattr__(name: str) -> object:
    # Late: the monitor of every container imports this package too, and must stay small.
    if name not in __all__:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "core.model")), name)
