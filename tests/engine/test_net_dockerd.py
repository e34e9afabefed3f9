"""A real dockerd beside us, on a host of their own: neither takes anything from the other, nor gets into it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.model import PortMapping
from tests.dockerd import dockerd
from tests.engine.netlab import (
    COMES,
    OUTSIDE,
    UPLINK,
    Lab,
    Server,
    ask_tcp,
    command,
    lab,
    netinst,
    outside,
    private_host,
    run_inside,
)
from tests.imagemaker import busybox, busybox_archive
from tests.patience import patience

__all__ = ["lab", "netinst", "outside", "private_host"]
pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.usefixtures("private_host")]
Docker = Callable[..., str]


@pytest.fixture
def docker(private_host: None, tmp_path: Path) -> Iterator[Callable[[], Docker]]:
    """Starts dockerd, with its image loaded; it is ended with the test."""
    missing = [name for name in ("dockerd", "docker", "containerd", "skopeo", "iptables") if not shutil.which(name)]
    if missing or busybox() is None:
        pytest.skip(f"needs {', '.join(missing or ['busybox-static'])} from Debian")
    with contextlib.ExitStack() as stack:

        def start() -> Docker:
            client = stack.enter_context(dockerd("--bip", "172.31.250.1/24", "--storage-driver", "vfs"))

            def call(*words: str) -> str:
                done = subprocess.run(
                    (*client, *words), capture_output=True, text=True, check=True, timeout=patience(90)
                )
                return done.stdout.strip()

            oci = busybox_archive(tmp_path / "oci.tar")
            target = f"docker-archive:{tmp_path}/docker.tar:busybox:test"
            subprocess.run(("skopeo", "copy", "--quiet", f"oci-archive:{oci}", target), check=True)
            call("load", "--input", f"{tmp_path}/docker.tar")
            return call

        yield start
    command("ip", "link", "del", "docker0")


def page(host: str, port: int, timeout: float = COMES) -> bool:
    """Does a web server answer?"""
    with socket.create_connection((host, port), timeout) as peer:
        peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return peer.recv(100).startswith(b"HTTP/1")


async def comes(check: Callable[[], bool]) -> None:
    """Wait until ``check()`` holds."""
    async with asyncio.timeout(patience(60)):
        while not await asyncio.to_thread(check):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("policy", ["DROP", "ACCEPT", "guarded"])
async def test_neither_harms_the_other(lab: Lab, outside: int, docker: Callable[[], Docker], policy: str) -> None:
    # Where we are the ones to switch routing on, it is for bridges alone: Docker's, which come later, too.
    subprocess.run(("sysctl", "-qw", f"net.ipv4.ip_forward={int(policy != 'guarded')}"), check=True)
    box = await lab.box(PortMapping(80))
    for port in (80, 81):
        box.serve("tcp", port)
    lab.net.watch()
    away = Server(outside, "tcp", 8000)
    call = await asyncio.to_thread(docker)
    # DROP is what it sets itself where it is the first to switch routing on; otherwise it lets everybody pass.
    subprocess.run(("iptables", "-P", "FORWARD", "DROP" if policy == "DROP" else "ACCEPT"), check=True)
    assert ("elements = { ipv4 }" in command("nft", "list", "set", "inet", lab.inst.nft_table, "guarded")) == (
        policy == "guarded"
    )
    try:
        script = "httpd -p 80; httpd -f -p 81"
        theirs = call("run", "-d", "-p", "18080:80", "busybox:test", "sh", "-c", script)
        there = call("inspect", "-f", "{{.NetworkSettings.IPAddress}}", theirs)
        namespace = os.open(f"/proc/{call('inspect', '-f', '{{.State.Pid}}', theirs)}/ns/net", os.O_RDONLY)
        gateway = box.attachment.endpoint.gateway
        # From outside to both, and from both outside. In threads: what watches the firewall needs this one.
        for port in (80, 81):
            await comes(lambda port=port: run_inside(namespace, page, "127.0.0.1", port) is True)  # type: ignore[misc]
        await comes(lambda: run_inside(outside, ask_tcp, UPLINK, box.port(80)) == OUTSIDE)
        await comes(lambda: run_inside(outside, page, UPLINK, 18080) is True)
        for caller in (box.fd, namespace):
            assert run_inside(caller, ask_tcp, OUTSIDE, 8000) == UPLINK
        # To each other by published ports, and by nothing else.
        assert run_inside(box.fd, page, gateway, 18080) is True
        assert run_inside(namespace, ask_tcp, "172.31.250.1", box.port(80))
        assert str(run_inside(box.fd, page, there, 81, 0.5)).startswith("error")
        assert str(run_inside(namespace, ask_tcp, box.ip, 81, 0.5)).startswith("error")
        os.close(namespace)
        # Each has its own ports; who is in the way is told by name.
        other = await lab.box()
        with pytest.raises(Exception, match=r"docker-proxy \(process|another process"):
            await lab.net.publish(other.id, other.ends, [PortMapping(80, 18080)])
        # A network of Docker's is made and removed, its container ends: all of ours goes on.
        call("network", "create", "side")
        call("run", "-d", "--name", "second", "--network", "side", "busybox:test", "sleep", "1000")
        call("rm", "-f", "second", theirs)
        call("network", "rm", "side")
        assert run_inside(outside, ask_tcp, UPLINK, box.port(80)) == OUTSIDE
    finally:
        away.close()
    # Ours ends: nothing of it is left in Docker's chains.
    for one in list(lab.boxes):
        await lab.end(one)
    await lab.net.remove_all()
    assert lab.inst.nft_table not in command("nft", "list", "ruleset")
