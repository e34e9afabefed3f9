"""Networks of one instance: the bridge, addresses, published ports, names.

::

    net.py        Net: what the verbs call; every kernel conversation in one worker thread
    host.py       the worker's side of it: sockets, attach, detach
    recovery.py   kernel and database made equal again
    pools.py      which subnet a network gets, and the network rows
    ipam.py       which address a container gets (run.db)
    links.py      bridge and veth pairs
    firewall.py   the instance's nft table, derived from the database
    foreign.py    other people's FORWARD chain, where its policy is DROP
    ports.py      published ports: reservation, conflicts and who holds them
    flows.py      tracked connections of what is gone
    watch.py      hearing of other people's changes to the firewall
    names.py      hosts, resolv.conf and hostname for the container
"""

from core.net.net import Attachment, Net, Published

__all__ = ["Attachment", "Net", "Published"]
