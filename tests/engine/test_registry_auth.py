"""Logging in, being somebody at a registry, and who gets to see the password."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from core.errors import Locked, NotFound, Unauthorized, Unavailable
from core.images import transport
from core.images.auth import Credentials
from core.images.keyring import Keyring
from core.images.login import login
from core.images.remote import catalogue, tags
from core.images.store import ImageStore
from core.images.vault import Vault
from core.store.registries import CredentialSettings
from tests import images as make
from tests.images import directory, member
from tests.images_lab import finish, open_store
from tests.liar import liar
from tests.registry import Certificates, certificates, htpasswd, need, registry
from tests.tokens import helper, token_server

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root"),
    pytest.mark.usefixtures("own_settings"),
]
HERE = CredentialSettings()


def sample() -> make.Made:
    return make.image([make.tar(directory("d"), member("d/file", data=b"content"))])


def layout(folder: Path) -> str:
    return f"oci:{make.layout(folder / 'layout', sample(), 'x')}:x"


def copy(source: str, target: str, *options: str) -> None:
    need("skopeo")
    words = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", *options, source]
    subprocess.run([*words, f"docker://{target}"], check=True, capture_output=True)


async def pulled(images: ImageStore, reference: str, **options: bool) -> bool:
    return bool((await finish(images.pull(reference, **options))).tags)


# -- TLS ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


# -- login --------------------------------------------------------------------------------------------------------
@pytest.mark.registry
async def test_login_tries_and_keeps(tmp_path: Path, own_settings: Path) -> None:
    users = htpasswd(tmp_path / "htpasswd", "ann", "secret")
    with registry(tmp_path / "registry", htpasswd=users) as address:
        copy(layout(tmp_path), f"{address}/app:1", "--dest-creds=ann:secret")
        async with open_store(tmp_path) as images:
            with pytest.raises(Unauthorized, match="wharf login"):
                await pulled(images, f"{address}/app:1")
            with pytest.raises(Unauthorized, match="refuses the credentials of ann"):
                await login(images, address, "ann", "wrong")
            file = own_settings.parent / "credentials.json"
            assert not file.exists()
            done = await login(images, f"http://{address}/v2/", "ann", "secret")
            assert (done.registry, done.user, done.asked) == (address, "ann", True)
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert await pulled(images, f"{address}/app:1")
            assert (await login(images, address, "", "")).user == "ann"
            file.chmod(0o644)
            with pytest.raises(Unauthorized, match="can be read by others"):
                await images.keyring.find(address, HERE)
            file.chmod(0o600)
            assert await images.keyring.forget(address, HERE) == (True, "")
            assert not file.exists()
            assert await images.keyring.forget(address, HERE) == (False, "")
            with pytest.raises(Unauthorized):
                await tags(images, f"{address}/app")


@pytest.mark.registry
async def test_tokens_of_a_real_registry(tmp_path: Path, authority: Certificates, own_settings: Path) -> None:
    """A token service beside docker-registry: anonymous, by password, and by the identity token kept in its place."""
    async with token_server(authority) as service:
        service.users["ann"] = "secret"
        service.public.add("open")
        with registry(tmp_path / "registry", more=service.registry_config()) as address:
            for name in ("open", "closed"):
                # In a thread: the token service is in this one.
                where = f"{address}/{name}:1"
                await asyncio.to_thread(copy, layout(tmp_path), where, "--dest-creds=ann:secret")
            async with open_store(tmp_path) as images:
                service.seen.clear()
                assert await pulled(images, f"{address}/open:1")
                assert service.seen == [("GET", ["repository:open:pull"], "")]
                with pytest.raises(Unauthorized):
                    await pulled(images, f"{address}/closed:1")
                with pytest.raises(Unauthorized, match="refuses the credentials"):
                    await login(images, address, "ann", "wrong")
                await login(images, address, "ann", "secret")
                kept = (own_settings.parent / "credentials.json").read_text()
                assert "secret" not in kept
                assert "identity_token" in kept
                service.seen.clear()
                assert await pulled(images, f"{address}/closed:1")
                assert service.seen == [("POST", ["repository:closed:pull"], "ann")]
                assert sorted(await catalogue(images, address)) == ["closed", "open"]
                service.refresh.clear()  # taken back
                with pytest.raises(Unauthorized, match="Log in again"):
                    await tags(images, f"{address}/closed")


# -- where credentials are ----------------------------------------------------------------------------------------
async def test_helpers_of_docker(own_settings: Path) -> None:
    folder = own_settings.parent
    every, special = helper(folder, "every"), helper(folder, "special")
    (folder / "docker").mkdir()
    config = folder / "docker" / "config.json"
    config.write_text(json.dumps({"credsStore": "every", "credHelpers": {"b.example:5000": "special"}}))
    every.write_text(json.dumps({"a.example": ["ann", "one"], "https://index.docker.io/v1/": ["hub", "two"]}))
    special.write_text(json.dumps({"https://b.example:5000": ["<token>", "three"]}))
    keyring = Keyring()
    assert await keyring.find("a.example", HERE) == Credentials("ann", "one")
    assert await keyring.find("docker.io", HERE) == Credentials("hub", "two")
    assert await keyring.find("b.example:5000", HERE) == Credentials("", "", "three")
    assert await keyring.find("c.example", HERE) is None
    assert "every" in await keyring.keep("c.example", Credentials("cid", "four"), HERE)
    assert json.loads(every.read_text())["c.example"] == ["cid", "four"]
    assert not (folder / "credentials.json").exists()
    assert await keyring.forget("c.example", HERE) == (True, "")
    assert "c.example" not in json.loads(every.read_text())
    config.write_text(json.dumps({"credsStore": "missing"}))
    with pytest.raises(Unauthorized, match="docker-credential-missing"):
        await keyring.find("a.example", HERE)
    config.write_text(json.dumps({"credsStore": "../../bin/x"}))
    with pytest.raises(Unauthorized, match="missing"):
        await keyring.find("a.example", HERE)


async def test_a_helper_that_fails(own_settings: Path) -> None:
    folder = own_settings.parent
    helper(folder, "broken")
    (folder / "docker-credential-broken").write_text("#!/bin/sh\necho 'keychain is locked'\nexit 1\n")
    with pytest.raises(Unauthorized, match="keychain is locked"):
        await Keyring().keep("a.example", Credentials("a", "b"), HERE, "broken")


async def test_what_docker_has_stored_in_clear(own_settings: Path) -> None:
    folder = own_settings.parent / "docker"
    folder.mkdir()
    secret = base64.b64encode(b"ann:se:cret").decode()
    auths = {"a.example": {"auth": secret}, "https://b.example": {"identitytoken": "t"}, "c.example": {}, "d": 5}
    (folder / "config.json").write_text(json.dumps({"auths": auths}))
    keyring = Keyring()
    assert await keyring.find("a.example", HERE) == Credentials("ann", "se:cret")
    assert await keyring.find("b.example", HERE) == Credentials("", "", "t")
    assert await keyring.find("c.example", HERE) is None
    assert await keyring.find("d", HERE) is None
    before = (folder / "config.json").read_bytes()
    assert await keyring.forget("a.example", HERE) == (False, str(folder / "config.json"))
    await keyring.keep("a.example", Credentials("new", "word"), HERE)
    assert await keyring.find("a.example", HERE) == Credentials("new", "word")
    assert (folder / "config.json").read_bytes() == before  # docker's file is never written


def test_the_encrypted_store(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "credentials.json"
    vault = Vault(file)
    vault.put("a.example", Credentials("ann", "clear-as-day"), None)
    with pytest.raises(Locked, match="passphrase is needed"):
        vault.put("b.example", Credentials("bob", "hidden"), None, encrypt=True)
    assert not vault.encrypted
    vault.put("b.example", Credentials("bob", "hidden"), b"pass", encrypt=True)
    text = file.read_text()
    assert "clear-as-day" not in text
    assert "hidden" not in text
    assert "ann" not in text
    assert Vault(file).names() == ["a.example", "b.example"]
    assert Vault(file).get("a.example", b"pass") == Credentials("ann", "clear-as-day")
    assert Vault(file).get("nobody", None) is None  # no passphrase is needed for what is not there
    for word in (None, b"", b"wrong"):
        with pytest.raises(Locked):
            Vault(file).get("b.example", word)
    with pytest.raises(Locked):  # there is one passphrase for all
        vault.put("c.example", Credentials("c", "c"), b"other")
    vault.put("c.example", Credentials("", "", "token"), b"pass")
    assert vault.get("c.example", b"pass") == Credentials("", "", "token")
    document = json.loads(file.read_text())
    document["entries"]["evil.example"] = document["entries"]["a.example"]
    file.write_text(json.dumps(document))
    with pytest.raises(Locked, match="was changed"):
        Vault(file).get("evil.example", b"pass")
    for name in vault.names():
        assert vault.drop(name)
    assert not file.exists()


@pytest.mark.parametrize("way", ["environment", "file", "unit", "told"])
async def test_what_opens_the_encrypted_store(own_settings: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    folder, settings = own_settings.parent, CredentialSettings("encrypted", "")
    if way == "environment":
        monkeypatch.setenv("WHARF_CREDENTIALS_PASSPHRASE", "pass")
    elif way == "file":
        settings = CredentialSettings("encrypted", str(folder / "key"))
        (folder / "key").write_text("pass\n")
        (folder / "key").chmod(0o644)
        with pytest.raises(Unauthorized, match="chmod 600"):
            await Keyring().keep("a.example", Credentials("a", "b"), settings)
        (folder / "key").chmod(0o600)
    elif way == "unit":
        (folder / "wharf.passphrase").write_text("pass")
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    keyring = Keyring()
    if way == "told":
        with pytest.raises(Locked):
            await keyring.keep("a.example", Credentials("a", "b"), settings)
        keyring.unlock("pass")
    assert "encrypted" in await keyring.keep("a.example", Credentials("a", "b"), settings)
    assert await keyring.find("a.example", settings) == Credentials("a", "b")
    assert Vault(folder / "credentials.json").get("a.example", b"pass") == Credentials("a", "b")


def test_nobody_sees_half_a_store(tmp_path: Path) -> None:
    """Several at once, one of them killed in the middle: every entry that was acknowledged is there."""
    file = tmp_path / "credentials.json"
    code = (
        "import sys, pathlib; from core.images.vault import Vault; from core.images.auth import Credentials\n"
        "for n in range(40): Vault(pathlib.Path(sys.argv[1])).put(f'{sys.argv[2]}{n}.example', Credentials('u', 'p'),"
        " None); print(n, flush=True)"
    )
    first = subprocess.Popen([sys.executable, "-c", code, str(file), "a"], stdout=subprocess.PIPE)
    second = subprocess.Popen([sys.executable, "-c", code, str(file), "b"], stdout=subprocess.PIPE)
    assert first.stdout is not None
    for _ in range(5):
        first.stdout.readline()
    first.kill()
    said = first.stdout.read().split()
    first.wait()
    second.communicate()
    last = int(said[-1]) if said else 4
    names = set(Vault(file).names())
    assert {f"b{n}.example" for n in range(40)} <= names
    assert {f"a{n}.example" for n in range(last + 1)} <= names


# -- who gets to see them -----------------------------------------------------------------------------------------
async def test_what_is_in_netrc_stays_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_settings: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with liar() as server, open_store(tmp_path) as images:
        server.put(sample())
        own_settings.write_text(f'[registries."{server.address}"]\ninsecure = true\n')
        assert await pulled(images, f"{server.address}/app")
        assert not any("Authorization" in headers for _, headers in server.seen)


async def test_realms_elsewhere_by_name_only(tmp_path: Path, own_settings: Path) -> None:
    async with liar() as elsewhere, liar() as server, open_store(tmp_path) as images:
        server.put(sample())
        other = elsewhere.address.replace("127.0.0.1", "localhost")
        await images.keyring.keep(server.address, Credentials("ann", "secret"), HERE)

        async def challenge(request: web.Request) -> web.StreamResponse | None:
            if request.headers.get("Authorization") == "Bearer t0ken":
                return None
            header = f'Bearer realm="http://{other}/token",service="s"'
            return web.Response(status=401, headers={"WWW-Authenticate": header})

        async def token(request: web.Request) -> web.StreamResponse | None:
            return web.json_response({"token": "t0ken"})

        server.bend, elsewhere.bend = challenge, token
        with pytest.raises(Unauthorized, match="may send us"):
            await pulled(images, f"{server.address}/app")
        assert not elsewhere.seen
        own_settings.write_text(f'[registries."{server.address}"]\nrealms = ["{other}"]\n')
        assert await pulled(images, f"{server.address}/app")
        assert all(headers["Authorization"].startswith("Basic ") for _, headers in elsewhere.seen)


async def test_a_mirror_never_gets_the_password_of_what_it_mirrors(tmp_path: Path, own_settings: Path) -> None:
    async with liar() as mirror, liar() as server, open_store(tmp_path) as images:
        server.put(sample())
        mirror.put(sample())

        async def wants(request: web.Request) -> web.StreamResponse | None:
            if "Authorization" in request.headers:
                return None
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

        mirror.bend = server.bend = wants
        own_settings.write_text(f'[registries."{server.address}"]\nmirrors = ["{mirror.address}"]\n')
        await images.keyring.keep(server.address, Credentials("ann", "secret"), HERE)
        steps = [step async for step in images.pull(f"{server.address}/app")]
        assert steps[-1].image
        assert mirror.seen
        assert not any("Authorization" in headers for _, headers in mirror.seen)
        assert any(mirror.address in notice for notice in steps[-1].notices)
        await images.keyring.keep(mirror.address, Credentials("mia", "own"), HERE)
        with pytest.raises(NotFound):
            await pulled(images, f"{server.address}/app:none")
        sent = {headers["Authorization"] for _, headers in mirror.seen if "Authorization" in headers}
        assert sent == {Credentials("mia", "own").header}


async def test_nobody_out_there_sends_us_to_ourselves(tmp_path: Path, own_settings: Path) -> None:
    """A registry elsewhere (seen through a proxy, which plays it) redirects to what listens on this machine."""
    async with liar() as proxy, liar() as inner, open_store(tmp_path) as images:
        own_settings.write_text(
            f'[registries."registry.example:5000"]\ninsecure = true\nproxy = "http://{proxy.address}"\n'
        )

        async def bend(request: web.Request) -> web.StreamResponse | None:
            return web.Response(status=307, headers={"Location": f"http://{inner.address}/secrets"})

        proxy.bend = bend
        with pytest.raises(Unavailable, match="not safe"):
            await pulled(images, "registry.example:5000/app")
        assert proxy.seen
        assert not inner.seen


async def test_a_registry_of_this_machine_names_a_token_service_out_there(
    tmp_path: Path, own_settings: Path, authority: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the registry needs no certificate does not mean that anybody may have its password."""
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, **how: real(host.replace("auth.example.org", "::1"), *more, **how)
    )
    monkeypatch.setattr(transport, "_PAUSE", 0.001)
    heard = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\nConnection: close\r\n\r\n{"token": "t0ken"}')
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.server)
    service = await asyncio.start_server(serve, "::1", 0, ssl=context)
    port = service.sockets[0].getsockname()[1]
    async with service, liar() as server, open_store(tmp_path) as images:
        await images.keyring.keep(server.address, Credentials("ann", "secret"), HERE)
        server.put(sample())

        async def challenge(request: web.Request) -> web.StreamResponse | None:
            if request.headers.get("Authorization") == "Bearer t0ken":
                return None
            header = f'Bearer realm="https://auth.example.org:{port}/token"'
            return web.Response(status=401, headers={"WWW-Authenticate": header})

        server.bend = challenge
        table = f'[registries."{server.address}"]\nrealms = ["auth.example.org"]\n'
        own_settings.write_text(table)
        with pytest.raises(Unavailable, match="certificate verify failed"):
            await pulled(images, f"{server.address}/app")
        assert not heard
        own_settings.write_text(table + "insecure = true\n")
        assert await pulled(images, f"{server.address}/app")
        assert heard
