"""Registries by way of a SOCKS proxy, as the environment and the settings name one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from core.errors import InvalidArgument, Unavailable, Unsupported
from core.images import proxies
from tests import images as make
from tests.images import member
from tests.images_lab import finish, open_store
from tests.liar import liar
from tests.patience import patience
from tests.registry import Certificates, certificates, push, registry
from tests.socks import socks

FAR = "registry.test"  # what only the proxy can resolve
HOSTS = {FAR: "127.0.0.1", "192.0.2.7": "127.0.0.1", "2001:db8::7": "127.0.0.1"}
ANN = {"ann": "p@ss:word"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("variable", ["ALL_PROXY", "http_proxy"])
@pytest.mark.parametrize("host", [FAR, "192.0.2.7", "[2001:db8::7]"])
async def test_a_pull_by_name_and_by_address(
    tmp_path: Path, own_settings: Path, monkeypatch: pytest.MonkeyPatch, host: str, variable: str
) -> None:
    made = make.image([make.tar(member("big", data=bytes(range(256)) * 20_000))])
    async with liar() as server, socks(HOSTS, ANN) as proxy, open_store(tmp_path) as images:
        monkeypatch.setenv(variable, f"socks5h://ann:p%40ss%3Aword@{proxy.address}")
        server.put(made)
        port = server.address.rpartition(":")[2]
        image = await finish(images.pull(f"{host}:{port}/app", insecure=True))
        assert image.id == made.config
        assert set(proxy.seen) == {(host.strip("[]"), int(port))}
        assert len(server.seen) > len(proxy.seen)  # connections are used again
        monkeypatch.setenv("NO_PROXY", "*")
        proxy.seen.clear()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(finish(images.pull(f"{FAR}:{port}/app", insecure=True)), patience(60))
        assert proxy.seen == []


@pytest.mark.registry
async def test_tls_goes_through_it_and_the_certificate_is_checked(
    tmp_path: Path, own_settings: Path, authority: Certificates
) -> None:
    made = make.layout(tmp_path / "layout", make.image([make.tar(member("x"))]), "1")
    with registry(tmp_path / "registry", tls=authority) as address:
        push(f"oci:{made}:1", f"{address}/app:1")
        port = address.rpartition(":")[2]
        async with socks({**HOSTS, "127.0.0.1": "127.0.0.1"}) as proxy, open_store(tmp_path) as images:
            settings = f'ca = "{authority.ca}"\nproxy = "socks5://{proxy.address}"\n'
            own_settings.write_text(f'[registries."{address}"]\n{settings}[registries."{FAR}:{port}"]\n{settings}')
            assert await finish(images.pull(f"{address}/app:1"))
            assert proxy.seen
            with pytest.raises(Unavailable, match="is not trusted"):  # it is for another name
                await finish(images.pull(f"{FAR}:{port}/app:1"))


@pytest.mark.parametrize(
    ("users", "answer", "words"),
    [
        ({}, 5, "the connection was refused"),
        ({}, 2, "its rules do not allow it"),
        ({}, 99, "it says 99"),
        ({"bob": "x"}, 0, "refuses user name or password"),
    ],
)
async def test_what_it_refuses_is_told_without_the_password(
    tmp_path: Path, own_settings: Path, users: dict[str, str], answer: int, words: str
) -> None:
    async with socks(HOSTS, users, answer=answer) as proxy, open_store(tmp_path) as images:
        own_settings.write_text(f'[registries."{FAR}"]\nproxy = "socks5://ann:secret@{proxy.address}"\n')
        with pytest.raises(Unavailable, match=words) as caught:
            await finish(images.pull(f"{FAR}/app"))
        assert f"(by the proxy socks5://{proxy.address})" in str(caught.value)
        assert "secret" not in str(caught.value)


async def test_a_login_that_nobody_gave_and_a_proxy_that_is_none(tmp_path: Path, own_settings: Path) -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    other = await asyncio.start_server(web, "127.0.0.1", 0)
    gone = await asyncio.start_server(web, "127.0.0.1", 0)
    ports = [server.sockets[0].getsockname()[1] for server in (other, gone)]
    gone.close()
    async with socks(HOSTS, ANN) as proxy, open_store(tmp_path) as images:
        for address, words in (
            (proxy.address, "wants a login|does not take"),
            (f"127.0.0.1:{ports[0]}", "does not speak SOCKS 5"),
            (f"127.0.0.1:{ports[1]}", "connection refused"),
        ):
            own_settings.write_text(f'[registries."{FAR}"]\nproxy = "socks5://{address}"\n')
            with pytest.raises(Unavailable, match=words):
                await finish(images.pull(f"{FAR}/app"))
    other.close()


def test_which_proxy(monkeypatch: pytest.MonkeyPatch, own_settings: Path) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://all:1")
    assert proxies.find("https://r.io/v2/") == proxies.find("http://r.io/v2/") == "socks5://all:1"
    monkeypatch.setenv("https_proxy", "http://web:2")
    assert proxies.find("https://r.io/v2/") == "http://web:2"
    assert proxies.find("http://r.io/v2/") == "socks5://all:1"
    assert proxies.find("http://127.0.0.1:5000/") is None
    monkeypatch.setenv("https_proxy", "socks4://old:1")
    with pytest.raises(Unsupported, match="socks4"):
        proxies.find("https://r.io/v2/")


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:99999", "http://[::1:80", "http://", "socks5://me:sec/ret@proxy:1080", "http://p:0"]
)
def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch, own_settings: Path, proxy: str) -> None:
    """The proxy gets the blame, not the registry; nothing of the password is said."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    for own in ("", proxy):
        with pytest.raises(InvalidArgument, match=r"the proxy for r\.io") as caught:
            proxies.find("https://r.io/v2/", own)
        assert "sec" not in str(caught.value).replace("special", "")
