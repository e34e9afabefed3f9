"""What a container finds in /etc/hosts, /etc/resolv.conf and /etc/hostname: text in, text out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from pathlib import Path

from core.errors import InvalidArgument

_LOCAL = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""

# Where the host names no server that a container can reach; the same ones that Docker falls back to.
FALLBACK = ("8.8.8.8", "8.8.4.4")
_HOST = Path("/etc/resolv.conf")
_RESOLVED = Path("/run/systemd/resolve/resolv.conf")  # systemd-resolved(8): the real servers behind its stub


def hosts_file(
    ip: str, hostname: str, *, domainname: str = "", extra_hosts: Iterable[str] = (), gateway: str = ""
) -> str:
    """The text of /etc/hosts: hosts(5). ``ip`` is empty without a network.

    :param extra_hosts: ``NAME:ADDRESS`` or ``NAME=ADDRESS``; the address ``host-gateway`` stands for ``gateway``
    :raises InvalidArgument: an extra host of another form
    """
    lines = [_LOCAL]
    for item in extra_hosts:
        name, address = _extra_host(item, gateway)
        lines.append(f"{address}\t{name}\n")
    if hostname:
        names = f"{hostname}.{domainname} {hostname}" if domainname else hostname
        lines.append(f"{ip or '127.0.1.1'}\t{names}\n")
    return "".join(lines)


def _extra_host(item: str, gateway: str) -> tuple[str, str]:
    cut = min((i for i in (item.find("="), item.find(":")) if i > 0), default=len(item))
    name, address = item[:cut], item[cut + 1 :].strip("[]")
    if address == "host-gateway":
        if not gateway:
            raise InvalidArgument(
                f"cannot add host {item!r}", "there is no gateway on this network", "Give the address itself"
            )
        address = gateway
    if not _is_address(address):
        raise InvalidArgument(f"invalid extra host {item!r}", "it is not NAME:ADDRESS", "Write it like db:192.0.2.7")
    if not name or not name.isprintable() or any(c.isspace() or c == "#" for c in name):
        raise InvalidArgument(
            f"invalid extra host {item!r}", "the name is empty or has blanks", "Write it like db:ADDRESS"
        )
    return name, address


def _is_address(text: str) -> bool:
    """An IP address; the zone of ``fe80::1%eth0`` may not be more than a word (Python takes anything there)."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return text.isprintable() and not any(c.isspace() or c == "#" for c in text)


def host_resolv_conf() -> str:
    """The host's own resolv.conf; systemd-resolved's list of real servers where the host uses only its local stub."""
    text = _read(_HOST)
    if not any(not _is_loopback(server) for server in _servers(text)):
        return _read(_RESOLVED) or text
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _servers(text: str) -> list[str]:
    words = [line.split() for line in text.splitlines()]
    return [w[1] for w in words if len(w) > 1 and w[0] == "nameserver"]


def _is_loopback(server: str) -> bool:
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return True  # nothing that a resolver could use
    return address.is_loopback or address.is_unspecified


def _is_reachable(server: str) -> bool:
    """From a container without IPv6, and with a loopback of its own."""
    return not _is_loopback(server) and ":" not in server


def resolv_conf(host_text: str, dns: Sequence[str] = (), *, host_network: bool = False) -> str:
    """The text of /etc/resolv.conf: resolv.conf(5).

    Servers on the host's loopback cannot be reached from a container and are left out, except on the host's network;
    so are IPv6 servers. Where none remains, :data:`FALLBACK` is used. ``search`` and ``options`` are kept.

    :param dns: servers to use instead of the host's
    :raises InvalidArgument: one of ``dns`` is no address
    """
    if host_network and not dns:
        return host_text
    for server in dns:
        if not _is_address(server):
            raise InvalidArgument(
                f"invalid DNS server {server!r}", "it is not an IP address", "Write it like --dns 192.0.2.53"
            )
    servers = list(dns) or [s for s in _servers(host_text) if _is_reachable(s)] or list(FALLBACK)
    kept = [
        line.strip() for line in host_text.splitlines() if line.split()[:1] in (["search"], ["domain"], ["options"])
    ]
    return "".join(f"{line}\n" for line in [*(f"nameserver {s}" for s in servers), *kept])


def hostname_file(hostname: str) -> str:
    """The text of /etc/hostname: hostname(5)."""
    return f"{hostname}\n"
