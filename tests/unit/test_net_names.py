"""Files for names, the choice of subnets, and the netlink codec: no kernel needed."""

from __future__ import annotations

import pytest

from core.errors import Conflict, InvalidArgument
from core.kernel import netlink as nl
from core.kernel.rtnetlink import Route
from core.net import names, pools
from core.net.ipam import mac_of


def test_hosts() -> None:
    text = names.hosts_file(["10.0.0.5"], "web", extra_hosts=["db:192.0.2.7", "gw=host-gateway", "six:[2001:db8::1]"],
                            gateway="10.0.0.1")  # fmt: skip
    lines = text.splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert lines[-4:] == ["192.0.2.7\tdb", "10.0.0.1\tgw", "2001:db8::1\tsix", "10.0.0.5\tweb"]
    assert names.hosts_file(["10.0.0.5"], "web", domainname="example.org").endswith("10.0.0.5\tweb.example.org web\n")
    assert names.hosts_file([], "box").endswith("127.0.1.1\tbox\n")


@pytest.mark.parametrize("wrong", ["", "db", "db:", ":192.0.2.7", "db:nowhere", "a b:192.0.2.7", "x\ny:192.0.2.7"])
def test_hosts_refuses(wrong: str) -> None:
    with pytest.raises(InvalidArgument):
        names.hosts_file(["10.0.0.5"], "web", extra_hosts=[wrong])


def test_host_gateway_needs_a_gateway() -> None:
    with pytest.raises(InvalidArgument, match="no gateway"):
        names.hosts_file([], "web", extra_hosts=["gw:host-gateway"])


HOST = """# made by somebody
nameserver 127.0.0.53
nameserver 192.0.2.53
nameserver 2001:db8::53
nameserver ::1
nameserver fe80::1%eth0
search example.org
options ndots:2
"""


def test_resolv_conf_keeps_what_a_container_can_reach() -> None:
    assert names.resolv_conf(HOST) == "nameserver 192.0.2.53\nsearch example.org\noptions ndots:2\n"
    assert names.resolv_conf(HOST, host_network=True) == HOST
    assert names.resolv_conf(HOST, ["192.0.2.9"], host_network=True).startswith("nameserver 192.0.2.9\n")


def test_resolv_conf_falls_back() -> None:
    for text in ("", "nameserver 127.0.0.53\n", "nameserver nonsense\nnameserver\n"):
        assert names.resolv_conf(text) == "".join(f"nameserver {server}\n" for server in names.FALLBACK)


def test_resolv_conf_refuses_a_name() -> None:
    with pytest.raises(InvalidArgument):
        names.resolv_conf(HOST, ["dns.example.org"])


def route(cidr: str, interface: int = 3) -> Route:
    import ipaddress

    net = ipaddress.IPv4Network(cidr)
    return Route((int(net.network_address), net.prefixlen), interface, 0, 254)


def test_subnets_avoid_routes() -> None:
    pool = (("10.0.0.0/22", 24),)
    assert pools.choose([], [], 0, pool) == "10.0.0.0/24"
    assert pools.choose([route("10.0.0.128/25")], ["10.0.1.0/24"], 0, pool) == "10.0.2.0/24"
    assert pools.choose([], [], 3, pool) == "10.0.3.0/24"
    assert pools.choose([route("0.0.0.0/0"), route("0.0.0.0/1"), route("128.0.0.0/1")], [], 0, pool) == "10.0.0.0/24"
    with pytest.raises(Conflict):
        pools.choose([route("10.0.0.0/8")], [], 0, pool)


def test_overlap_ignores_the_own_bridge() -> None:
    assert pools.overlap("10.0.0.0/24", [route("10.0.0.0/16")])
    assert not pools.overlap("10.0.0.0/24", [route("10.0.0.0/24", 7)], ignore=7)
    assert not pools.overlap("10.0.0.0/24", [route("10.0.1.0/24"), route("0.0.0.0/0")])


def test_mac() -> None:
    assert mac_of("172.28.0.255") == "02:42:ac:1c:00:ff"


def test_attributes_round_trip() -> None:
    data = nl.u32(1, 7) + nl.text(2, "eth0") + nl.nest(3, nl.be32(1, 9))
    fields = nl.attr_map(data)
    assert nl.string(fields[2]) == "eth0"
    assert nl.attr_map(fields[3])[1] == b"\0\0\0\x09"
    assert len(data) % 4 == 0


def test_attribute_length_never_wraps() -> None:
    """CVE-2021-43784: a 16-bit length that overflowed let one attribute speak for others."""
    with pytest.raises(OverflowError):
        nl.attr(1, bytes(65536))
    with pytest.raises(OverflowError):
        nl.nest(1, *(nl.attr(1, bytes(1000)) for _ in range(66)))


@pytest.mark.parametrize("junk", [b"", b"\0", b"\0\0\0\0", b"\xff\xff\1\0abc", b"\3\0\1\0", b"\x08\0\1\0\1\2\3\4\x05"])
def test_malformed_attributes_end_the_list(junk: bytes) -> None:
    assert len(list(nl.attrs(junk))) <= 1
    assert list(nl.split(junk)) == []
