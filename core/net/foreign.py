"""Other people's chains for what is routed: an accept in our table does not override another table's drop.

Where ``ip`` or ``ip6`` ``filter FORWARD`` drops by policy or refuses by its last rule (Docker, ufw, an admin's own),
each bridge gets two accepting rules in ``DOCKER-USER``, which Docker leaves to the administrator and calls first, else
at the head of ``FORWARD``; with firewalld at the head of its ``filter_FORWARD``. They carry a comment with the
instance's table as their owner. What may really pass stays decided in our own table: its drop is final as well.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping
from typing import NamedTuple

from core.kernel import nftables as nft
from core.kernel.netlink import Message, Netlink, NetlinkError


class Place(NamedTuple):
    """Where accepts are put: the first of the chains that there is. The last one is what the kernel calls."""

    family: int
    table: str
    chains: tuple[str, ...]


PLACES = (
    Place(nft.IPV4, "filter", ("DOCKER-USER", "FORWARD")),
    Place(nft.IPV6, "filter", ("DOCKER-USER", "FORWARD")),
    Place(nft.INET, "firewalld", ("filter_FORWARD",)),
)


def _comment(owner: str, bridge: str) -> str:
    return f"{owner} {bridge}"


def _accepts(place: Place, chain: str, owner: str, bridge: str) -> list[Message]:
    name = nft.compare(bridge.encode().ljust(16, b"\0"))
    return [
        nft.rule(
            place.family, place.table, chain, nft.meta(key) + name + nft.verdict(nft.ACCEPT),
            append=False, comment=_comment(owner, bridge),
        )
        for key in (nft.META_IIFNAME, nft.META_OIFNAME)
    ]  # fmt: skip


def _ours(nl: Netlink, place: Place, owner: str) -> list[tuple[str, nft.RuleInfo]]:
    return [
        (chain, rule)
        for chain in place.chains
        for rule in nft.rules(nl, place.family, place.table, chain)
        if rule.comment.startswith(f"{owner} ")
    ]


def _refuses(nl: Netlink, place: Place) -> bool | None:
    """Does it refuse what nobody accepts? None where it is not there."""
    policy = nft.chain_policy(nl, place.family, place.table, place.chains[-1])
    if policy is None or policy == nft.DROP:
        return None if policy is None else True
    last = nft.rules(nl, place.family, place.table, place.chains[-1])[-1:]
    return bool(last) and last[0].refuses


def refuses(nl: Netlink) -> bool:
    """True where somebody else's chain would hold back what containers send or get."""
    return any(_refuses(nl, place) for place in PLACES)


def adjust(nl: Netlink, owner: str, bridges: Mapping[str, Collection[int]]) -> bool:
    """Make the foreign chains let exactly ``bridges`` pass, or hold nothing of ours where they refuse nothing.

    Returns True where something had to be changed. Cheap where nothing has: a request or two per chain.

    :param bridges: name → versions of IP on it
    """
    changed = False
    for place in PLACES:
        refusing = _refuses(nl, place)
        if refusing is None:
            continue
        version = {nft.IPV4: 4, nft.IPV6: 6}.get(place.family)
        wanted = {name for name, versions in bridges.items() if refusing and (version is None or version in versions)}
        changed |= _adjust(nl, place, owner, wanted)
    return changed


def _adjust(nl: Netlink, place: Place, owner: str, wanted: Collection[str]) -> bool:
    chain = next(c for c in place.chains if nft.chain_policy(nl, place.family, place.table, c) is not None)
    ours = _ours(nl, place, owner)
    have = sorted((c, r.comment) for c, r in ours)
    if have == sorted((chain, _comment(owner, b)) for b in wanted for _ in range(2)):
        return False
    # Old ones away and new ones in, in one transaction: no packet falls between.
    changes = [nft.del_rule(place.family, place.table, c, r.handle) for c, r in ours]
    changes += [m for bridge in sorted(wanted) for m in _accepts(place, chain, owner, bridge)]
    try:
        nft.commit(nl, changes)
    except NetlinkError as error:
        # ENOENT: the chain changed under us; its owner's event brings us here again. EPERM: newer firewalld lets nobody
        # else into its table; `network reach` tells what follows of that.
        if error.errno == errno.ENOENT or (error.errno == errno.EPERM and place.family == nft.INET):
            return False
        raise
    return True
