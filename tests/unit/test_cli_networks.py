"""What is said about networks on the command line, and what it becomes."""

from __future__ import annotations

import pytest

from core.cli.command import Command, Parser
from core.cli.network_create import _options, _subnets
from core.cli.network_options import parse_network
from core.cli.run import COMMANDS as RUN
from core.cli.spec_options import build_spec
from core.errors import InvalidArgument
from core.model import ContainerSpec, EndpointSpec, Subnet
from core.units import parse_rate
from tui.equivalent import docker_run


def spec(*words: str) -> ContainerSpec:
    return build_spec(Parser("run", RUN["run"], "Run", stop_early=True).read([*words, "busybox"]))


@pytest.mark.parametrize(
    ("words", "mode", "places"),
    [
        ((), "", ()),
        (("--network", "web"), "web", ()),
        (("--net=host",), "host", ()),
        (("--network", "web", "--ip", "10.0.0.9"), "web", (EndpointSpec("web", ip="10.0.0.9"),)),
        (("--network-alias", "a", "--mac-address", "02:00:00:00:00:01"), "bridge",
         (EndpointSpec("bridge", aliases=("a",), mac="02:00:00:00:00:01"),)),
        (("--network", "web", "--network", "db"), "web", (EndpointSpec("web"), EndpointSpec("db"))),
        (("--network", "name=web,alias=a,alias=b,ip6=fd00::9,gw-priority=-3,rate=10mbit"), "web",
         (EndpointSpec("web", aliases=("a", "b"), ip6="fd00::9", priority=-3, rate=10_000_000),)),
        (("--network", 'name=web,"driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.forwarding=1,'
          'net.ipv4.conf.IFNAME.log_martians=1",driver-opt=com.docker.network.endpoint.ifname=up0'), "web",
         (EndpointSpec("web", interface="up0", sysctls={"net.ipv4.conf.IFNAME.forwarding": "1",
                                                        "net.ipv4.conf.IFNAME.log_martians": "1"}),)),
    ],
)  # fmt: skip
def test_places(words: tuple[str, ...], mode: str, places: tuple[EndpointSpec, ...]) -> None:
    made = spec(*words)
    assert (made.network, made.networks) == (mode, places)


@pytest.mark.parametrize(
    "words",
    [
        ("--network", "a", "--network", "b", "--ip", "10.0.0.2"),
        ("--network", "alias=a"),
        ("--network", "name=a,colour=red"),
        ("--network", "name=a,gw-priority=first"),
        ("--network", "name=a,rate=fast"),
        ("--network", "name=a,driver-opt=x=y"),
    ],
)
def test_what_cannot_be_said(words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument):
        spec(*words)


def test_the_equivalent_command_says_the_same() -> None:
    words = ("--network", 'name=web,alias=a,ip=10.0.0.2,"driver-opt=com.docker.network.endpoint.sysctls='
             'net.ipv4.conf.IFNAME.forwarding=1,net.ipv4.conf.IFNAME.log_martians=1"', "--network", "db",
             "--dns-search", "example.org", "--dns-option", "ndots:2", "--link", "x:y")  # fmt: skip
    import shlex

    made = spec(*words)
    again = shlex.split(docker_run(made))
    assert spec(*again[3 : again.index("busybox")]) == made


def test_rates() -> None:
    assert [parse_rate(text) for text in ("10mbit", "1.5gbit", "500k", "9600")] == [
        10_000_000,
        1_500_000_000,
        500_000,
        9600,
    ]
    for text in ("", "fast", "-1mbit", "0", "1e9", "10mb/s"):
        with pytest.raises(InvalidArgument):
            parse_rate(text)


def subnets(*words: str) -> tuple[Subnet, ...]:
    async def run(_engine: object, _args: object) -> int:
        return 0

    command = Command("NAME", _options, run)
    return _subnets(Parser("network create", command, "Make").read([*words, "x"]))


def test_options_go_to_the_subnet_they_lie_in() -> None:
    words = "--subnet 10.1.0.0/24 --subnet fd01::/64 --gateway fd01::9 --ip-range 10.1.0.128/25"
    assert subnets(*words.split(), "--aux-address", "printer=10.1.0.3") == (
        Subnet("10.1.0.0/24", ip_range="10.1.0.128/25", reserved={"printer": "10.1.0.3"}),
        Subnet("fd01::/64", gateway="fd01::9"),
    )
    for wrong in ("--gateway 10.2.0.1", "--ip-range nonsense", "--aux-address 10.1.0.4", "--aux-address a=10.9.0.1"):
        with pytest.raises(InvalidArgument):
            subnets("--subnet", "10.1.0.0/24", *wrong.split())


def test_a_name_with_an_equals_sign_is_a_description() -> None:
    assert parse_network("web") == EndpointSpec("web")
    assert parse_network("web,alias=a") == EndpointSpec("web", aliases=("a",))
    with pytest.raises(InvalidArgument, match="not known"):
        parse_network("web=1")
