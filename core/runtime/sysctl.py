"""Names of kernel parameters: where they lie below /proc/sys, and which namespace holds them."""

from __future__ import annotations

# Those of the ipc namespace in the kernel's ipc/ipc_sysctl.c; mqueue's are in ipc/mq_sysctl.c.
_IPC = frozenset(
    f"kernel/{name}"
    for name in (
        "msgmax msgmnb msgmni msg_next_id sem sem_next_id shmall shmmax shmmni shm_next_id shm_rmid_forced auto_msgmni"
    ).split()
)


def path_of(name: str) -> str:
    """``net/ipv4/ip_forward`` from ``net.ipv4.ip_forward`` or from itself.

    Whichever separator comes first is the separator, and the other one is a dot within a name (sysctl(8)):
    ``net/ipv4/conf/eth0.100/forwarding`` and ``net.ipv4.conf.eth0/100.forwarding`` are the same.
    """
    slash, dot = name.find("/"), name.find(".")
    if dot < 0 or 0 <= slash < dot:
        return name
    return name.translate(str.maketrans("./", "/."))


def is_name(name: str) -> bool:
    """Can ``name`` be one? None of its parts is empty, ``.`` or ``..``, and there are at least two."""
    parts = path_of(name).split("/")
    return len(parts) > 1 and all(part not in ("", ".", "..") and not set(part) & set(" \t\n\0") for part in parts)


def namespace_of(name: str) -> str:
    """The type of namespace (by its name in config.json) that has this parameter for itself; "" for the whole host."""
    path = path_of(name)
    if path in _IPC or path.startswith("fs/mqueue/"):
        return "ipc"
    if path.startswith("net/"):
        return "network"
    if path in ("kernel/domainname", "kernel/hostname"):
        return "uts"
    return "user" if path.startswith("user/") else ""
