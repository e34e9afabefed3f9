"""Actions on networks, and on the places of containers on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui import networking, text
from tui.snapshot import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.errors import WharfError
    from core.model import Connection, Container, Network, Reach
    from tui.screens.workspace import Workspace


def _say(desk: Workspace, words: str) -> None:
    text.notify(desk, words, severity="warning", timeout=3)


def _network(desk: Workspace) -> Network | None:
    """The one under the cursor."""
    network = desk.snapshot.network(desk.networks.key)
    if network is None:
        _say(desk, "no network is chosen")
    return network


def _container(desk: Workspace) -> Container | None:
    container = desk.container()
    if container is None:
        _say(desk, "no container is chosen")
    return container


# -- networks -----------------------------------------------------------------------------------------------------


def new(desk: Workspace) -> None:
    """Ask for a name and the rest, then make it."""
    from tui.screens.network_form import NewNetworkScreen

    desk.app.push_screen(NewNetworkScreen(desk.engine, desk.jobs))


def remove(desk: Workspace) -> None:
    """Remove the network, after a question that names its users."""
    network = _network(desk)
    if network is None:
        return
    if network.name in networking.PREDEFINED:
        _say(desk, f"{network.name} is always there, and cannot be removed")
        return
    lost, on = [], networking.users(network, desk.snapshot.containers)
    if now := [container.name for container in on if container.id in network.containers]:
        key = desk.keymap.label("network.disconnect")
        lost.append(f"On it now: {listed(now, 6)}. It stays as long as they are ({key}: disconnect).")
    if later := [container.name for container in on if container.id not in network.containers]:
        lost.append(f"Not running, and to be on it: {listed(later, 6)}. They will not start without it.")
    if not on:
        lost.append("No container is on it, or is to be.")
    ranges = networking.subnets(network)
    lost.append(f"Its addresses ({ranges}) are free again.")
    desk.ask(
        f"Remove network {network.name}?",
        lost,
        "Remove",
        lambda: desk.jobs.run(f"remove network {network.name}", lambda job: desk.engine.remove_network(network.id)),
    )


def prune(desk: Workspace) -> None:
    """Remove what no container, running or not, is to be on, after a question that names it."""
    containers = desk.snapshot.containers
    idle = [
        network.name
        for network in desk.snapshot.networks
        if network.name not in networking.PREDEFINED and not networking.users(network, containers)
    ]
    if not idle:
        text.notify(desk, "nothing to prune: every network has a container, or is always there", timeout=3)
        return

    def told(gone: Sequence[Network]) -> None:
        text.notify(desk, f"removed {listed((network.name for network in gone), 6)}" if gone else "nothing was removed")

    desk.ask(
        f"Remove {len(idle)} network{'s' * (len(idle) != 1)}?",
        [listed(idle, 12), "No container, running or not, is to be on them."],
        "Prune",
        lambda: desk.jobs.run("prune networks", lambda job: desk.engine.prune_networks(), then=told),
    )


# -- places -------------------------------------------------------------------------------------------------------


def connect(desk: Workspace) -> None:
    """Choose the other side (a container for the network, a network for the container), then ask for the rest."""
    if desk.active == "networks":
        _add_container(desk)
        return
    container = _container(desk)
    if container is None:
        return
    if not networking.own_network(container):
        _say(desk, f"{container.name} has no network of its own: it uses --network {container.spec.network}")
        return
    free = [
        network
        for network in sorted(desk.snapshot.networks, key=networking.by_name)
        if network.name not in ("host", "none") and not networking.is_on(container, network)
    ]
    if not free:
        key = desk.keymap.label("network.new")
        _say(desk, f"{container.name} is on every network there is ({key} in the networks makes one)")
        return
    _choose(
        desk,
        f"Add {container.name} to a network",
        [f"{network.name}  {networking.subnets(network)}" for network in free],
        lambda at: _connect(desk, container, free[at]),
    )


def _add_container(desk: Workspace) -> None:
    network = _network(desk)
    if network is None:
        return
    if network.name in ("host", "none"):
        _say(desk, f"a container is on {network.name} from its start, or never")
        return
    free = [
        container
        for container in sorted(desk.snapshot.containers, key=lambda box: (not box.state.live, box.name.lower()))
        if networking.own_network(container) and not networking.is_on(container, network)
    ]
    if not free:
        _say(desk, f"no container could be added to {network.name}")
        return
    _choose(
        desk,
        f"Add a container to {network.name}",
        [
            container.name if container.state.live else f"{container.name}  ({container.state.value})"
            for container in free
        ],
        lambda at: _connect(desk, free[at], network),
    )


def _choose(desk: Workspace, title: str, names: Sequence[str], chosen: Callable[[int], object]) -> None:
    from tui.screens.names import ChooseScreen

    def go(name: str | None) -> None:
        if name is not None:
            chosen(names.index(name))

    desk.app.push_screen(ChooseScreen(title, "Which one?", names), go)


def _connect(desk: Workspace, container: Container, network: Network) -> None:
    from tui.screens.network_form import ConnectScreen

    desk.app.push_screen(ConnectScreen(desk.engine, desk.jobs, container, network))


def disconnect(desk: Workspace) -> None:
    """Choose the other side where there are several, and ask."""
    if desk.active == "networks":
        network = _network(desk)
        if network is None:
            return
        boxes = networking.users(network, desk.snapshot.containers)
        if not boxes or network.name in ("host", "none"):
            _say(desk, f"no container could be taken from {network.name}")
            return
        pairs = [(box, network.name) for box in boxes]
        names, title = [box.name for box in boxes], f"Take a container from {network.name}"
    else:
        container = _container(desk)
        if container is None:
            return
        names, title = [end.network for end in networking.places(container)], f"Take {container.name} from a network"
        pairs = [(container, name) for name in names]
        if not pairs:
            _say(desk, f"{container.name} is on no network that it could be taken from")
            return
    if len(pairs) == 1:
        ask_disconnect(desk, *pairs[0])
    else:
        _choose(desk, title, names, lambda at: ask_disconnect(desk, *pairs[at]))


def ask_disconnect(desk: Workspace, container: Container, network: str) -> None:
    """Ask, with what is lost, then take the container from that network."""
    end = next((end for end in container.endpoints if end.network == network), None)
    lost = ["It will not be on it at its next start."]
    if end is not None:
        at = " and ".join(address for address in (end.ip, end.ip6) if address)
        lost = [f"It loses {at or 'its place'} at once; what it has open there breaks off."]
    if len(networking.places(container)) == 1:
        ports = ", and its published ports lead nowhere" if container.ports else ""
        lost.append(f"That is its only network: it is left without any{ports}.")
    desk.ask(
        f"Take {container.name} from {network}?",
        lost,
        "Disconnect",
        lambda: desk.jobs.run(
            f"take {container.name} from {network}",
            lambda job: desk.engine.disconnect(network, container.id, force=True),
        ),
    )


def ports(desk: Workspace) -> None:
    """Open and close published ports of the container in view."""
    from tui.screens.network_form import PortsScreen

    container = _container(desk)
    if container is not None:
        desk.app.push_screen(PortsScreen(desk.engine, desk.jobs, container))


# -- looks --------------------------------------------------------------------------------------------------------


def _subject(desk: Workspace) -> tuple[str, str, list[str]] | None:
    """What the cursor is on, for a look: its kind and name, and the ids of the containers that belong to it."""
    if desk.active == "networks":
        network = _network(desk)
        if network is None:
            return None
        return "network", network.name, [box.id for box in networking.users(network, desk.snapshot.containers)]
    container = _container(desk)
    return ("container", container.name, [container.id]) if container is not None else None


def reach(desk: Workspace) -> None:
    """Who can reach the ports: of the network's containers, or of the container in view."""
    from tui.screens.reach import ReachScreen

    if (found := _subject(desk)) is None:
        return
    _, name, refs = found

    def ask(show: Callable[[list[Reach] | WharfError], None]) -> None:
        desk.jobs.run("reach", lambda job: desk.engine.reach(refs), then=show, failed=show, quiet=True)

    desk.app.push_screen(ReachScreen(name, ask))


def connections(desk: Workspace) -> None:
    """What the network's containers, or the container in view, are connected to."""
    from tui.screens.connections import ConnectionsScreen

    if (found := _subject(desk)) is None:
        return
    kind, name, refs = found

    def ask(every: bool, show: Callable[[list[Connection] | WharfError], None]) -> None:
        work = desk.engine.connections
        desk.jobs.run("connections", lambda job: work(refs, all=every), then=show, failed=show, quiet=True)

    desk.app.push_screen(ConnectionsScreen(name, desk.snapshot, ask, several=kind == "network"))


def check(desk: Workspace) -> None:
    """Look at each link of the network, or of the container's networks; name the first that is broken."""
    from tui.screens.network_check import NetworkCheckScreen

    if (found := _subject(desk)) is None:
        return
    kind, name, refs = found
    key = desk.networks.key if kind == "network" else refs[0]
    desk.app.push_screen(NetworkCheckScreen(desk.engine, desk.jobs, key or name, f"{kind} {name}"))


def show_map(desk: Workspace) -> None:
    """Networks, containers and ports as a tree; Enter on a container goes to it."""
    from tui.screens.network_map import MapScreen

    def ask(show: Callable[[list[Reach] | WharfError], None]) -> None:
        desk.jobs.run("map", lambda job: desk.engine.reach(), then=show, failed=show, quiet=True)

    start = (desk.networks.key or "") if desk.active == "networks" else ""

    def chosen(cid: str | None) -> None:
        if cid is not None:
            desk.choose(cid)

    desk.app.push_screen(MapScreen(ask, desk.snapshot, start), chosen)


def show_places(desk: Workspace) -> None:
    """The networks and ports of the container in view."""
    from tui.screens.places import PlacesScreen

    container = _container(desk)
    if container is None:
        return

    def ask(show: Callable[[list[Reach] | WharfError], None]) -> None:
        desk.jobs.run("network", lambda job: desk.engine.reach([container.id]), then=show, failed=show, quiet=True)

    def act(action: str, network: str) -> None:
        now = desk.snapshot.container(container.id)
        if (
            action == "network.disconnect"
            and now is not None
            and network in {e.network for e in networking.places(now)}
        ):
            ask_disconnect(desk, now, network)
        else:
            desk.perform(action)

    desk.app.push_screen(PlacesScreen(container, desk.snapshot, ask, act))
