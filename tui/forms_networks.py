"""From what was typed into the forms about networks to the engine's words. Pure; no Textual.

The forms say nothing that the command line does not: their fields become its options, and its parser reads them. So a
line of further options takes all that `wharf network create` and `wharf network connect` take.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from core.errors import InvalidArgument
from core.model import EndpointSpec, NetworkSpec, PortMapping
from core.options import parse_ports


def words_of(line: str) -> list[str]:
    """A line as a shell would split it.

    :raises InvalidArgument: a quote is not closed
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InvalidArgument("a quote is not closed", str(error)) from None


def network_words(
    name: str, driver: str, subnets: str, parent: str, options: str, *, ipv6: bool, internal: bool
) -> list[str]:
    """The words of `network create` for what was typed.

    :raises InvalidArgument: a quote is not closed
    """
    words = [] if driver in ("", "bridge") else ["--driver", driver]
    for subnet in subnets.replace(",", " ").split():
        words += ["--subnet", subnet]
    words += ["--ipv6"] if ipv6 else []
    words += ["--internal"] if internal else []
    words += ["-o", f"parent={parent}"] if parent else []
    return [*words, *words_of(options), *(["--", name] if name.startswith("-") else [name])]


def read_network(words: Sequence[str]) -> NetworkSpec:
    """:raises InvalidArgument: an unknown option, or a value that makes no sense"""
    # Late: the command line's parser is of no use before the form is sent.
    from core.cli.network_create import read_network as read

    return read(words)


def read_place(network: str, container: str, aliases: str, ip: str, ip6: str, options: str) -> EndpointSpec:
    """A place on a network.

    :raises InvalidArgument: an unknown option, or a value that makes no sense
    """
    from core.cli.network_connect import read_place as read

    words = [word for alias in aliases.replace(",", " ").split() for word in ("--alias", alias)]
    words += ["--ip", ip] if ip else []
    words += ["--ip6", ip6] if ip6 else []
    return read([*words, *words_of(options), network, container])


def read_ports(words: Sequence[str]) -> list[PortMapping]:
    """``8080:80``, ``127.0.0.1:5353:53/udp`` …

    :raises InvalidArgument: one that is none
    """
    return [port for word in words for port in parse_ports(word)]
