"""What can be done with networks, and with the places of containers on them: a part of :mod:`tui.actions`."""

from __future__ import annotations

from collections.abc import Iterable

from tui.action import NETWORKS, PLACES, Action
from tui.handlers import networks

BOTH = NETWORKS | PLACES  # the same key does the same for a network and for a container


def network_actions() -> Iterable[Action]:
    """In the order of help and palette."""
    yield from _changes()
    yield from _places()


def _changes() -> Iterable[Action]:
    group = "Network"
    about = "A form; free addresses where none are given."
    yield Action("network.new", "New network", "n", NETWORKS, networks.new, about, group, word="new", footer=2)
    about = "Says first who is on it."
    yield Action(
        "network.remove",
        "Remove the network",
        "d",
        NETWORKS,
        networks.remove,
        about,
        group,
        danger=True,
        word="remove",
        footer=6,
    )
    about = "Remove those that no container is to be on."
    yield Action("network.prune", "Prune networks", "B", NETWORKS, networks.prune, about, group, danger=True)


def _places() -> Iterable[Action]:
    group = "Network"
    about = "Put the container on a network, also while it runs: aliases, addresses, a rate."
    yield Action(
        "network.connect", "Add to a network", "A", BOTH, networks.connect, about, group, word="add", footer=12
    )
    about = "Take the container out of a network, also while it runs."
    yield Action(
        "network.disconnect",
        "Out of a network",
        "O",
        BOTH,
        networks.disconnect,
        about,
        group,
        danger=True,
        word="out",
        footer=13,
    )
    about = "This host, the LAN or everyone; which rule says so, and what to beware of."
    yield Action("network.reach", "Who can reach it", "w", BOTH, networks.reach, about, group, word="who", footer=14)
    about = "Each link looked at; the first that is broken is named, with how to mend it."
    yield Action("network.check", "Check the network", "v", BOTH, networks.check, about, group, word="check", footer=15)
    about = "Live: with which process, to whom, how much passes."
    yield Action("network.connections", "Connections", "t", BOTH, networks.connections, about, group, footer=16)
    about = "Networks, containers and published ports as a tree, live (also Enter)."
    yield Action("network.map", "Map", "m", NETWORKS, networks.show_map, about, group, footer=3)
    about = "Its addresses on each network; its ports, and who can reach each."
    yield Action("container.network", "Its network", "N", PLACES, networks.show_places, about, "Container")
    about = "Open and close published ports, also while it runs."
    yield Action("container.ports", "Ports", "o", PLACES, networks.ports, about, "Container")
