"""Networks of one instance: the bridge, addresses, published ports, names.

::

    net.py        Net: what the verbs call; every kernel conversation in one worker thread
    access.py     what an ordinary user's engine may have
    shared.py     the namespace in which an ordinary user's networks are
    host.py       the worker's side of it: sockets, attach, detach
    step.py       the kernel's errors in the engine's words
    networks.py   networks made and removed
    recovery.py   kernel and database made equal again
    siblings.py   other instances on this host: their subnets, their guard
    pools.py      which subnet a network gets, and the network rows
    ipam.py       which address a container gets (run.db)
    links.py      bridge and veth pairs
    spare.py      namespaces with a wire, made ahead of the next container
    vlans.py      macvlan and ipvlan
    ruleset.py    what is in the instance's nft table: sets from the database, rules that never change
    firewall.py   the table made, compared, changed
    foreign.py    other people's chains for what is routed, where they refuse it
    guard.py      whether it is we who made this host route, and so for containers only
    publish.py    ports opened and closed
    ports.py      which rows a mapping becomes, and whose they are
    serving.py    which ports a proxy has to serve
    reserve.py    sockets that keep host ports, and who holds one that is taken
    flows.py      tracked connections of what is gone
    reach.py      who can reach a published port
    forwards.py   what else than our table decides what is forwarded
    probe.py      trying a way: ping, connections, questions to name servers
    sockets.py    a container's sockets, and whose they are
    meters.py     counters of its interfaces
    watch.py      hearing of other people's changes to the firewall
    names.py      hosts, resolv.conf and hostname for the container
    zones.py      who is called what on which network, for the resolvers
"""

from core.net.ipam import ways_out
from core.net.net import Attachment, Net, Published
from core.net.zones import has_names

__all__ = ["Attachment", "Net", "Published", "has_names", "ways_out"]
