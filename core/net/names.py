"""What a container finds in /etc/hosts, /etc/resolv.conf and /etc/hostname: text in, text out."""

from __future__ import annotations

import contextlib
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
    addresses: Sequence[str], hostname: str, *, domainname: str = "", extra_hosts: Iterable[str] = (), gateway: str = ""
) -> str:
    """The text of /etc/hosts: hosts(5). There are no ``addresses`` without a network.

    :param extra_hosts: ``NAME:ADDRESS`` or ``NAME=ADDRESS``; the address ``host-gateway`` stands for ``gateway``
    :raises InvalidArgument: an extra host of another form
    """
    lines = [_LOCAL]
    for item in extra_hosts:
        name, address = _extra_host(item, gateway)
        lines.append(f"{address}\t{name}\n")
    if hostname:
        names = f"{hostname}.{domainname} {hostname}" if domainname else hostname
        lines += [f"{address}\t{names}\n" for address in addresses or ("127.0.1.1",)]
    return "".join(lines)


def extra_addresses(extra_hosts: Iterable[str], gateway: str = "") -> dict[str, list[str]]:
    """The extra hosts of :func:`hosts_file` by name; those that are none are left out."""
    found: dict[str, list[str]] = {}
    for item in extra_hosts:
        with contextlib.suppress(InvalidArgument):
            name, address = _extra_host(item, gateway)
            found.setdefault(name, []).append(address)
    return found


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


def resolv_conf(
    host_text: str,
    dns: Sequence[str] = (),
    *,
    search: Sequence[str] = (),
    options: Sequence[str] = (),
    host_network: bool = False,
    resolver: str = "",
) -> str:
    """The text of /etc/resolv.conf: resolv.conf(5).

    Servers on the host's loopback cannot be reached from a container and are left out, except on the host's network;
    so are IPv6 servers. Where none remains, :data:`FALLBACK` is used.

    :param dns: servers to use instead of the host's
    :param search: domains instead of the host's; ``.`` alone: none
    :param options: instead of the host's
    :param resolver: the address of the container's own, which knows the servers and short names
    :raises InvalidArgument: one of ``dns`` is no address, one of the others is no word
    """
    if host_network and not (dns or search or options):
        return host_text
    for server in dns:
        if not _is_address(server):
            raise InvalidArgument(
                f"invalid DNS server {server!r}", "it is not an IP address", "Write it like --dns 192.0.2.53"
            )
    for word in (*search, *options):
        if not word or not word.isprintable() or any(c.isspace() for c in word):
            raise InvalidArgument(f"invalid word for resolv.conf: {word!r}", "it is empty or has blanks in it")
    kept = _servers(host_text) if host_network else [s for s in _servers(host_text) if _is_reachable(s)]
    lines = [f"nameserver {server}" for server in ([resolver] if resolver else list(dns) or kept or list(FALLBACK))]
    words = {"search": [w for w in search if w != "."], "options": list(options)}
    for key, own in words.items():
        if (search and key == "search") or (options and key == "options"):
            lines += [f"{key} {' '.join(own)}"] * bool(own)
            continue
        known = ("search", "domain") if key == "search" else (key,)
        lines += [line.strip() for line in host_text.splitlines() if line.split()[:1] and line.split()[0] in known]
    if resolver and not any(word.startswith("ndots:") for line in lines for word in line.split()):
        lines.append("options ndots:0")
    return "".join(f"{line}\n" for line in lines)


def hostname_file(hostname: str) -> str:
    """The text of /etc/hostname: hostname(5)."""
    return f"{hostname}\n"
