"""The way to a registry: certificates, ours and theirs, and proxies."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from core.errors import InvalidArgument, Unavailable
from core.images import proxies
from core.images.remote import catalogue, tags
from tests.engine.test_registry_auth import authority, copy, layout, pulled
from tests.images_lab import open_store
from tests.registry import Certificates, certificates, registry

__all__ = ["authority"]
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root"),
    pytest.mark.usefixtures("own_settings"),
]


@pytest.mark.registry
async def test_certificates_of_our_own(tmp_path: Path, own_settings: Path, authority: Certificates) -> None:
    other = certificates(tmp_path / "other")
    with registry(tmp_path / "registry", tls=authority) as address:
        copy(layout(tmp_path), f"{address}/app:1")
        async with open_store(tmp_path) as images:
            assert await pulled(images, f"{address}/app:1")  # on loopback anything goes …
            folder = own_settings.parent / "certs.d" / address
            folder.mkdir(parents=True)
            (folder / "ca.crt").write_bytes(other.ca.read_bytes())
            with pytest.raises(Unavailable, match="is not trusted"):  # … until somebody has said what is right
                await tags(images, f"{address}/app")
            assert await tags(images, f"{address}/app", insecure=True) == ["1"]
            (folder / "ca.crt").write_bytes(authority.ca.read_bytes())
            assert await tags(images, f"{address}/app") == ["1"]
            # The name must be right, too.
            named = address.replace("127.0.0.1", "127.0.0.2")
            own_settings.write_text(f'[registries."{named}"]\nca = "{authority.ca}"\n')
            with pytest.raises(Unavailable):
                await tags(images, f"{named}/app")


@pytest.mark.registry
async def test_a_registry_that_wants_our_certificate(
    tmp_path: Path, own_settings: Path, authority: Certificates
) -> None:
    with registry(tmp_path / "registry", tls=authority, clients=True) as address:
        folder = own_settings.parent / "certs.d" / address
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(authority.ca.read_bytes())
        async with open_store(tmp_path) as images:
            with pytest.raises(Unavailable, match="client certificate"):
                await catalogue(images, address)
            (folder / "me.cert").write_bytes(authority.client[0].read_bytes())
            with pytest.raises(InvalidArgument, match=r"no me\.key"):
                await catalogue(images, address)
            (folder / "me.key").write_bytes(authority.client[1].read_bytes())
            assert await catalogue(images, address) == []
            (folder / "me.key").write_text("no key")
            with pytest.raises(InvalidArgument, match="cannot use"):
                await catalogue(images, address)
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
            certificate, key = authority.client
            own_settings.write_text(
                f'[registries."{address}"]\nca = "{authority.ca}"\ncert = "{certificate}"\nkey = "{key}"\n'
            )
            assert await catalogue(images, address) == []


@pytest.mark.registry
async def test_by_way_of_a_proxy(tmp_path: Path, own_settings: Path, authority: Certificates) -> None:
    """CONNECT, and the registry's certificate is checked behind it; the proxy is named without its password."""
    lines: list[bytes] = []

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines.append(head)
        host, _, port = head.split()[1].decode().partition(":")
        there, back = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                target.write(data)
            target.close()

        await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

    server = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with registry(tmp_path / "registry", tls=authority) as address:
        copy(layout(tmp_path), f"{address}/app:1")
        text = f'[registries."{address}"]\nca = "{authority.ca}"\nproxy = "http://me:secret@127.0.0.1:%d"\n'
        own_settings.write_text(text % port)
        async with open_store(tmp_path) as images:
            assert await tags(images, f"{address}/app") == ["1"]
            assert lines[0].startswith(f"CONNECT {address} ".encode())
            assert b"Proxy-Authorization: Basic bWU6c2VjcmV0" in lines[0]
            server.close()
            with pytest.raises(Unavailable, match=f"proxy http://127.0.0.1:{port}") as caught:
                await tags(images, f"{address}/app")
            assert "secret" not in str(caught.value)


def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    monkeypatch.setenv("http_proxy", "proxy:2")
    monkeypatch.setenv("NO_PROXY", "example.org, .under.net,10.0.0.0/8,b.c:5000,192.168.1.1,[fd00::1]:7")
    assert proxies.find("https://r.io/v2/") == "http://proxy:1"
    assert proxies.find("http://r.io:5000/v2/") == "http://proxy:2"
    assert proxies.find("https://r.io/", "http://own:3") == "http://own:3"
    direct = ["https://example.org/", "https://a.example.org/", "https://x.under.net/", "https://10.1.2.3:5000/"]
    direct += ["http://b.c:5000/", "https://192.168.1.1/", "https://127.0.0.1/", "https://localhost:5/"]
    direct += ["https://[fd00::1]:7/"]
    for url in direct:
        assert proxies.find(url) is None, url
    for url in ("https://under.net/", "https://notexample.org/", "http://b.c:5001/", "https://11.0.0.1/"):
        assert proxies.find(url), url
    assert proxies.find("https://r.io/", "none") is None
    monkeypatch.setenv("NO_PROXY", "*")
    assert proxies.find("https://r.io/") is None
