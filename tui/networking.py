"""Words about networks for panes and screens: who is on one, its flags, who can reach a port. Pure; no Textual."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from core.model import Container, EndpointInfo, EndpointSpec, Network, PortMapping, Reach
from core.model.netlook import port_numbers
from tui import text
from tui.widgets.columns import Cell

PREDEFINED = ("bridge", "host", "none")  # always there
# Who can reach a port, in words, and their colour: red is what nobody can reach, as it was published to be reached.
SCOPES = {  # from the fewest to the most; nobody aside
    "host": ("this host", "success"),
    "lan": ("the LAN", "primary"),
    "everyone": ("everyone", "warning"),
    "nobody": ("nobody", "error"),
}


def places(container: Container) -> tuple[EndpointSpec, ...]:
    """Where it is to be whenever it runs; nothing for one without a network of its own."""
    spec = container.spec
    if spec.network in ("none", "host") or spec.network.startswith("container:"):
        return ()
    return spec.networks or (EndpointSpec(spec.network or "bridge"),)


def is_on(container: Container, network: Network) -> bool:
    """True where the container is, or will be when it is started, on that network."""
    if network.name in ("host", "none"):
        return container.spec.network == network.name
    return container.id in network.containers or any(end.network == network.name for end in places(container))


def users(network: Network, containers: Iterable[Container]) -> list[Container]:
    """Those that are on it, and those that will be."""
    return [container for container in containers if is_on(container, network)]


def own_network(container: Container) -> bool:
    """True where networks can be added to it and taken away."""
    return container.spec.network != "host" and not container.spec.network.startswith("container:")


def subnets(network: Network) -> str:
    """All its ranges, IPv4 first."""
    return " ".join(one.subnet for version in (4, 6) for one in network.of_version(version))


def gateways(network: Network) -> str:
    return " ".join(one.gateway for version in (4, 6) for one in network.of_version(version) if one.gateway)


def traffic(flow: tuple[float, float] | None) -> str:
    """What comes in and goes out a second, in 16 cells; "" where nobody has looked yet."""
    return f"{text.rate(flow[0])}  {text.rate(flow[1])}" if flow else ""


def flags(network: Network) -> str:
    """What is special about it, in words."""
    if network.driver in ("host", "null"):
        return ""
    words = (
        ("internal", network.internal),
        ("v6", network.ipv6),
        ("no icc", not network.icc),
        ("no nat", network.driver == "bridge" and not network.masquerade and not network.internal),
    )
    return " ".join(word for word, on in words if on)


def by_name(network: Network) -> tuple[bool, str]:
    """The order of names; ``host`` and ``none`` last."""
    return network.name in ("host", "none"), network.name.lower()


def port_words(port: PortMapping, *more: PortMapping) -> str:
    """``127.0.0.1:8080→80/udp``: the address only where it is not all of the host's (of IPv4; ``[::]`` is said).

    :param more: the rest of its range: ``8080-8089→80-89``
    """
    host = port.host_ip if port.host_ip not in ("", "0.0.0.0") else ""
    host = f"[{host}]:" if ":" in host else f"{host}:" if host else ""
    protocol = "" if port.protocol == "tcp" else f"/{port.protocol}"
    outer, inner = port_numbers((port, *more))
    return f"{host}{outer}{text.glyphs().arrow}{inner}{protocol}"


def port_option(port: PortMapping) -> str:
    """As one types it: ``8080:80``, ``127.0.0.1:5353:53/udp``; the same for all addresses of IPv4 and of IPv6."""
    host = port.host_ip if port.host_ip not in ("", "0.0.0.0", "::") else ""
    host = f"[{host}]:" if ":" in host else f"{host}:" if host else ""
    number = f"{port.host_port}:" if port.host_port else ":" if host else ""
    protocol = "" if port.protocol == "tcp" else f"/{port.protocol}"
    return f"{host}{number}{port.container_port}{protocol}"


def leads_to(container: Container, networks: Iterable[Network]) -> EndpointInfo | None:
    """The place to which its published ports lead: on the bridge by which it answers, else on its first one."""
    bridges = {network.name for network in networks if network.driver == "bridge" and not network.internal}
    ends = [end for end in container.endpoints if end.network in bridges]
    return max(ends, key=lambda end: (bool(end.gateway or end.gateway6), end.priority, -len(end.name)), default=None)


def scope_sign(scope: str) -> str:
    glyphs = text.glyphs()
    return {"host": glyphs.local, "lan": glyphs.lan, "everyone": glyphs.everywhere}.get(scope, glyphs.failed)


def scope_cell(found: Reach) -> Cell:
    """Who can reach it: a sign, words and a colour; ``!`` where there is more to say about it."""
    words, style = SCOPES.get(found.scope, (found.scope, ""))
    return Cell(f"{scope_sign(found.scope)} {words}{' !' if found.warnings else ''}", style)


def ports_cell(container: Container, found: Sequence[Reach]) -> Cell:
    """All ports of a container in one cell, each with the sign of who can reach it; IPv4 and IPv6 together.

    :param found: what is known of that; before it is, the sign says what the address alone would
    """
    order = list(SCOPES)
    known = {(one.port.host_ip, one.port.host_port, one.port.protocol): one.scope for one in found}
    shown: dict[str, str] = {}
    for port in container.ports:
        scope = known.get((port.host_ip, port.host_port, port.protocol), _by_address(port.host_ip))
        protocol = "" if port.protocol == "tcp" else f"/{port.protocol}"
        words = f"{port.host_port}{text.glyphs().arrow}{port.container_port}{protocol}"
        before = shown.get(words, scope)
        shown[words] = (
            scope if before == "nobody" else before if scope == "nobody" else max(before, scope, key=order.index)
        )
    style = "error" if "nobody" in shown.values() else "warning" if any(one.warnings for one in found) else ""
    return Cell(", ".join(f"{words} {scope_sign(scope)}" for words, scope in shown.items()), style)


def _by_address(host_ip: str) -> str:
    if host_ip in ("", "0.0.0.0", "::"):
        return "everyone"
    return "host" if host_ip.startswith("127.") or host_ip == "::1" else "lan"
