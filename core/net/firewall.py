"""One nft table per instance, derived from the database as a whole (:mod:`core.net.ruleset` says what is in it).

Publishing is one element. The table is made, and made again after ``nft flush ruleset``, in one transaction, always
under run.db's write lock: so several processes never see or leave half of it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from core.errors import Unsupported
from core.kernel import nftables as nft
from core.kernel.netlink import Message, Netlink, NetlinkError
from core.net.ruleset import CHAINS, PROTOCOLS, SETS, Port, contents, of_ports, rules

__all__ = ["PROTOCOLS", "Port", "contents", "intact", "present", "publish", "rebuild", "remove", "unpublish"]
_TAG, _VERSION = b"wharf ", 7  # the table's tag: of a lower version it is made anew, a higher one is let be


def rebuild(nl: Netlink, table: str, wanted: dict[nft.SetSpec, set[nft.Element]]) -> None:
    """Replace the whole table by the one for ``wanted``, atomically. Tracked connections live on.

    :raises Unsupported: the kernel has no nftables, or lacks one of the parts used here
    """
    tag = _TAG + str(_VERSION).encode()
    messages: list[Message] = [
        # Make, delete, make: so that it does not matter whether there was one.
        nft.new_table(table, tag),
        nft.del_table(table),
        nft.new_table(table, tag),
    ]
    messages += [nft.new_set(table, spec, number) for number, spec in enumerate(SETS, 1)]
    messages += [nft.new_chain(table, name, hook) for name, hook in CHAINS.items()]
    for spec, elements in wanted.items():
        messages += nft.add_elements(table, spec, sorted(elements))
    messages += [nft.rule(nft.INET, table, chain, expressions) for chain, expressions in rules()]
    try:
        nft.commit(nl, messages)
    except NetlinkError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL, errno.EPROTONOSUPPORT):
            raise Unsupported(
                "networks need nftables in the kernel",
                f"it refused our table: {error.strerror}",
                "Load the modules nf_tables, nft_chain_nat, nft_fib_inet, nft_masq and nft_ct, or use --network host",
            ) from error
        raise


def intact(
    nl: Netlink,
    table: str,
    wanted: dict[nft.SetSpec, set[nft.Element]],
    allowed: dict[nft.SetSpec, set[nft.Element]] | None = None,
) -> bool:
    """True where the table is ours, whole, and holds all of ``wanted``, and nothing beside that and ``allowed``. One of
    a newer version of this program, which is open at the same time, is for that one to judge: two that each make the
    table anew would never end."""
    most, version = allowed or wanted, _version(nl, table)
    if version != _VERSION:
        return version > _VERSION
    chains = [rule.chain for rule in nft.rules(nl, nft.INET, table)]
    if sorted(chains) != sorted(chain for chain, _ in rules()):
        return False
    try:
        return all(need <= nft.elements(nl, table, spec) <= most[spec] for spec, need in wanted.items())
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return False
        raise


def present(nl: Netlink, table: str) -> bool:
    """True where the table exists in the form of this version, or of a newer one: one request, for every attach."""
    return _version(nl, table) >= _VERSION


def _version(nl: Netlink, table: str) -> int:
    """0: there is none, or it is nobody's."""
    tag = nft.table_tag(nl, table) or b""
    number = tag.removeprefix(_TAG)
    return int(number) if tag != number and number.isdigit() else 0


def publish(nl: Netlink, table: str, ports: Iterable[Port]) -> None:
    """Add the ports' elements, all or none; those that are there already stay."""
    messages = [m for spec, new in of_ports(ports).items() for m in nft.add_elements(table, spec, sorted(new))]
    nft.commit(nl, messages)


def unpublish(nl: Netlink, table: str, ports: Iterable[Port]) -> None:
    """Delete the ports' elements; what is gone already, or the whole table, is no error."""
    by_set = of_ports(ports)
    try:
        nft.commit(nl, [m for spec, old in by_set.items() for m in nft.del_elements(table, spec, sorted(old))])
    except NetlinkError as error:
        if error.errno != errno.ENOENT:
            raise
        _unpublish_each(nl, table, by_set)


def _unpublish_each(nl: Netlink, table: str, by_set: dict[nft.SetSpec, set[nft.Element]]) -> None:
    """One by one: a missing element makes the kernel refuse the whole transaction."""
    for spec, old in by_set.items():
        for element in old:
            try:
                nft.commit(nl, nft.del_elements(table, spec, [element]))
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    raise


def remove(nl: Netlink, table: str) -> bool:
    """Delete the table; False where there was none."""
    if nft.table_tag(nl, table) is None:
        return False
    nft.commit(nl, [nft.del_table(table)])
    return True
