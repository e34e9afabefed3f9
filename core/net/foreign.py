"""A foreign FORWARD policy of DROP (Docker, ufw): an accept in our table does not override another table's drop.

Where ``ip filter FORWARD`` drops by policy, each bridge gets two accepting rules in ``DOCKER-USER``, which Docker
leaves to the administrator and calls first, else at the head of ``FORWARD``. They carry a comment with the instance's
table as their owner. What may really pass stays decided in our own table: its drop is final as well.
"""

from __future__ import annotations

import errno
from collections.abc import Collection

from core.kernel import nftables as nft
from core.kernel.netlink import Message, Netlink, NetlinkError

_TABLE = "filter"
_CHAINS = ("DOCKER-USER", "FORWARD")


def _comment(owner: str, bridge: str) -> str:
    return f"{owner} {bridge}"


def _accepts(chain: str, owner: str, bridge: str) -> list[Message]:
    name = nft.compare(bridge.encode().ljust(16, b"\0"))
    return [
        nft.rule(
            nft.IPV4, _TABLE, chain, nft.meta(key) + name + nft.verdict(nft.ACCEPT),
            append=False, comment=_comment(owner, bridge),
        )
        for key in (nft.META_IIFNAME, nft.META_OIFNAME)
    ]  # fmt: skip


def _ours(nl: Netlink, owner: str) -> list[tuple[str, nft.RuleInfo]]:
    return [
        (chain, rule)
        for chain in _CHAINS
        for rule in nft.rules(nl, nft.IPV4, _TABLE, chain)
        if rule.comment.startswith(f"{owner} ")
    ]


def drops(nl: Netlink) -> bool:
    """True where ``ip filter FORWARD`` drops by policy."""
    return nft.chain_policy(nl, nft.IPV4, _TABLE, "FORWARD") == nft.DROP


def adjust(nl: Netlink, owner: str, bridges: Collection[str]) -> bool:
    """Make the foreign chain let exactly ``bridges`` pass, or hold nothing of ours where its policy accepts.

    Returns True where something had to be changed. Cheap where nothing has: one request per chain.
    """
    policy = nft.chain_policy(nl, nft.IPV4, _TABLE, "FORWARD")
    if policy is None:
        return False
    wanted = set(bridges) if policy == nft.DROP else set()
    chain = next(c for c in _CHAINS if nft.chain_policy(nl, nft.IPV4, _TABLE, c) is not None)
    ours = _ours(nl, owner)
    have = sorted((c, r.comment) for c, r in ours)
    if have == sorted((chain, _comment(owner, b)) for b in wanted for _ in range(2)):
        return False
    # Old ones away and new ones in, in one transaction: no packet falls between.
    changes = [nft.del_rule(nft.IPV4, _TABLE, c, r.handle) for c, r in ours]
    changes += [m for bridge in sorted(wanted) for m in _accepts(chain, owner, bridge)]
    try:
        nft.commit(nl, changes)
    except NetlinkError as error:
        if error.errno != errno.ENOENT:  # the chain changed under us; its owner's event brings us here again
            raise
    return True
