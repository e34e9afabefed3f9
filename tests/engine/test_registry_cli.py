"""Registries from the command line: docker's words, docker's exit codes, and what is asked on a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.images.manifest import host_platform
from core.kernel import userkey
from tests import images as make
from tests.engine.test_cli import HOUSE, Wharf
from tests.images import directory, member
from tests.patience import patience
from tests.registry import htpasswd, push, registry

pytestmark = [pytest.mark.real, pytest.mark.registry, pytest.mark.usefixtures("own_settings")]


@pytest.fixture
def wharf(own_settings: Path, instance_env: dict[str, str], busybox_image: str) -> Wharf:
    names = ("WHARF_CONFIG", "WHARF_CREDENTIALS", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "PATH")
    return Wharf({**instance_env, **{name: os.environ[name] for name in names}}, busybox_image)


def layout(folder: Path, **options: str) -> str:
    made = make.image([make.tar(directory("d"), member("d/file", data=b"x"))], **options)
    return f"oci:{make.layout(folder, made, 'x')}:x"


async def test_all_tags_but_those_of_other_platforms(wharf: Wharf, tmp_path: Path) -> None:
    here = str(host_platform())
    with registry(tmp_path / "registry") as address:
        name = f"{address}/mixed"
        for tag, machine in (("1", "s390x"), ("2", host_platform().architecture), ("3", "s390x")):
            push(layout(tmp_path / tag, architecture=machine), f"{name}:{tag}")
        done = await wharf("pull", "-a", "--platform", here, name)
        assert (done.code, done.out.splitlines()[-1]) == (0, name)
        assert [line.partition(" is left out: the image does not exist for ")[0] for line in done.err.splitlines()] == [
            f"wharf: {name}:3",
            f"wharf: {name}:1",
        ]
        assert (await wharf.ok("images", "--format", "{{.Tag}}", name)).split() == ["2"]
        done = await wharf("pull", "-a", "--platform", "linux/riscv64", name)
        assert done.code == 1
        assert len(done.err.splitlines()) == 4
        assert done.err.splitlines()[-1].startswith(f"wharf: {name} has no image that could be pulled")


async def test_all_tags_and_a_manifest_that_is_lost(wharf: Wharf, tmp_path: Path) -> None:
    """That is no image of another platform, but an image that cannot be had."""
    with registry(tmp_path / "registry") as address:
        name = f"{address}/lost"
        for tag in ("1", "2"):
            made = make.image([make.tar(member("file", data=tag.encode()))])
            push(f"oci:{make.layout(tmp_path / tag, made, 'x')}:x", f"{name}:{tag}")
        number = made.manifest.removeprefix("sha256:")
        [revision] = (tmp_path / "registry").rglob(f"_manifests/revisions/sha256/{number}/link")
        revision.unlink()
        done = await wharf("pull", "-a", name)
        assert done.code == 1
        assert "left out" not in done.err
        assert f"{name}:2" in done.err


async def test_docker_s_words(wharf: Wharf, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as address:
        push(layout(tmp_path / "layout"), f"{address}/team/app:latest")
        name = f"{address}/team/app"
        said = await wharf.ok("pull", name)
        digest = re.search(r"sha256:[0-9a-f]{64}", said)
        assert digest
        lines = said.splitlines()
        assert lines[:2] == ["Using default tag: latest", "latest: Pulling from team/app"]
        assert re.fullmatch(r"[0-9a-f]{12}: Pull complete", lines[2])
        end = [f"Digest: {digest[0]}", f"Status: Downloaded newer image for {name}:latest", f"{name}:latest"]
        assert lines[3:] == end
        again = (await wharf.ok("image", "pull", f"{name}:latest")).splitlines()
        assert again[0] == "latest: Pulling from team/app"
        assert again[-2:] == [f"Status: Image is up to date for {name}:latest", f"{name}:latest"]
        assert await wharf.ok("pull", "-q", name) == f"{name}:latest\n"
        assert (await wharf.ok("pull", f"{name}@{digest[0]}")).splitlines()[
            0
        ] == f"{name}@{digest[0]}: Pulling from team/app"
        missing = await wharf("pull", f"{name}:lates")
        assert (missing.code, "Did you mean latest?" in missing.err) == (1, True)

        await wharf.ok("tag", wharf.image, f"{address}/box:1")
        await wharf.ok("tag", wharf.image, f"{address}/box:2")
        said = await wharf.ok("push", "-a", f"{address}/box")
        lines = said.splitlines()
        assert lines[0] == f"The push refers to repository [{address}/box]"
        assert re.fullmatch(r"[0-9a-f]{12}: Pushed", lines[1])
        assert re.fullmatch(r"1: digest: sha256:[0-9a-f]{64} size: \d+", lines[2])
        assert "Layer already exists" in lines[4]
        assert lines[-1].startswith("2: digest: ")
        assert (await wharf.ok("registry", "ls", address)).split() == [f"{address}/box", f"{address}/team/app"]
        assert (await wharf.ok("registry", "tags", f"{address}/box")).split() == ["1", "2"]
        assert f"{address}/box" in await wharf.ok("search", f"{address}/bo")
        for all_of_it in (address, f"{address}/"):
            listed = await wharf.ok("search", "--format", "{{.Name}}", all_of_it)
            assert listed.split() == [f"{address}/box", f"{address}/team/app"]
        assert "up to date" in await wharf.ok("image", "check", f"{address}/box:1")
        await wharf.ok("rmi", f"{address}/box:1", f"{address}/box:2")
        assert (await wharf.ok("pull", "-a", f"{address}/box")).splitlines()[-1] == f"{address}/box"
        assert await wharf.ok("run", "--rm", "--network", "none", f"{address}/box:1", "echo", "hi") == "hi\n"
        # What has moved on is named, and nothing else.
        push(layout(tmp_path / "newer", architecture="s390x"), f"{address}/box:2")
        assert await wharf.ok("image", "check", "-q") == f"{address}/box:2\n"


async def test_run_for_another_platform(wharf: Wharf, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as address:
        push(layout(tmp_path / "layout", architecture="s390x"), f"{address}/app:1")
        mine = f"linux/{host_platform().architecture}"
        refused = await wharf("create", "--platform", mine, f"{address}/app:1", "x")
        assert refused.code == 1
        assert "linux/s390x only" in refused.err
        created = await wharf("create", "--platform", "linux/s390x", f"{address}/app:1", "x")
        assert created.code == 0, created
        assert "WARNING" not in created.err
        warned = await wharf("create", f"{address}/app:1", "x")
        assert (warned.code, f"is for linux/s390x, and this machine is {mine}" in warned.err) == (0, True), warned
        never = await wharf("create", "--pull", "never", "--platform", mine, f"{address}/app:1", "x")
        assert (never.code, "linux/s390x" in never.err) == (1, True)
        assert (await wharf("create", "--platform", "nonsense/1/2/3", wharf.image)).code == 1
        row = json.loads(await wharf.ok("inspect", created.out.strip()))
        assert row[0]["Image"]


async def test_login_and_logout(wharf: Wharf, tmp_path: Path, own_settings: Path) -> None:
    users = htpasswd(tmp_path / "htpasswd", "ann", "secret")
    with registry(tmp_path / "registry", htpasswd=users) as address:
        nobody = await wharf("login", address)
        assert nobody.code == 1
        assert "--password-stdin" in nobody.err
        wrong = await wharf("login", "-u", "ann", "--password-stdin", address, given=b"wrong\n")
        assert (wrong.code, wrong.out, "wrong user name or password" in wrong.err) == (1, "", True), wrong
        done = await wharf("login", "-u", "ann", "--password-stdin", address, given=b"secret\n")
        assert (done.code, done.out) == (0, "Login Succeeded\n")
        assert str(own_settings.parent / "credentials.json") in done.err
        assert (await wharf("login", address)).out == "Login Succeeded\n"
        await wharf.ok("tag", wharf.image, f"{address}/box:1")
        await wharf.ok("push", f"{address}/box:1")
        assert await wharf.ok("logout", address) == f"Removing login credentials for {address}\n"
        assert await wharf.ok("logout", address) == f"Not logged in to {address}\n"
        assert (await wharf("push", f"{address}/box:1")).code == 1


async def type_into(wharf: Wharf, words: list[str], *answers: tuple[str, str]) -> tuple[int, str]:
    """Run on a terminal; when a prompt shows, type. Returns the exit code and all that was shown."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tui",
        *words,
        cwd=HOUSE,
        env=wharf.env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown, waiting = "", list(answers)

    async def talk() -> None:
        nonlocal shown
        while True:
            try:
                data = os.read(ours, 4096)
            except BlockingIOError:
                await asyncio.sleep(0.02)
                continue
            except OSError:  # nobody has the other end any more
                return
            shown += data.decode()
            if waiting and waiting[0][0] in shown:
                # getpass throws away what was typed before it asked.
                await asyncio.sleep(0.2)
                shown = shown.replace(waiting[0][0], "", 1)
                os.write(ours, f"{waiting.pop(0)[1]}\n".encode())

    await asyncio.wait_for(talk(), patience(60))
    os.close(ours)
    return await process.wait(), shown


async def test_an_encrypted_store_on_a_terminal(wharf: Wharf, tmp_path: Path, own_settings: Path) -> None:
    users = htpasswd(tmp_path / "htpasswd", "ann", "secret")
    with registry(tmp_path / "registry", htpasswd=users) as address:
        asked = [("Username", "ann"), ("Password", "secret")]
        words = ["login", "--encrypt", address]
        code, shown = await type_into(wharf, words, *asked, ("Passphrase", "open"), ("same again", "slip"))
        assert (code, "differ" in shown) == (1, True), shown
        code, shown = await type_into(wharf, words, *asked, ("Passphrase", "open"), ("same again", "open"))
        assert (code, "Login Succeeded" in shown) == (0, True), shown
        assert "secret" not in shown
        assert "secret" not in (own_settings.parent / "credentials.json").read_text()
        await wharf.ok("tag", wharf.image, f"{address}/box:1")
        blind = await wharf("push", f"{address}/box:1")
        assert (blind.code, "passphrase" in blind.err) == (1, True)
        code, shown = await type_into(wharf, ["push", f"{address}/box:1"], ("Passphrase", "open"))
        assert (code, "digest: sha256:" in shown) == (0, True), shown
        code, shown = await type_into(wharf, ["push", f"{address}/box:1"], ("Passphrase", "wrong"))
        assert (code, "another one" in shown) == (1, True), shown


@pytest.mark.skipif(not Path("/proc/keys").exists(), reason="this kernel has no keyrings")
def test_a_session_without_the_users_keyring() -> None:
    """As under sudo and in a service: what one session keeps, another one finds, and may forget."""
    steps = ("userkey.put('wharf:test', b'{0}', 60)", "print(userkey.get('wharf:test'))", "userkey.drop('wharf:test')")

    def alone(step: str) -> str:
        code = f"from core.kernel import process, userkey; process.new_session_keyring(); {step}"
        return subprocess.run(
            [sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=True
        ).stdout

    try:
        for word in ("one", "two"):
            alone(steps[0].format(word))
            assert alone(steps[1]) == f"b'{word}'\n"
        alone(steps[2])
        assert alone(steps[1]) == "None\n"
        alone("userkey.put('wharf:test', b'short', 1)")
        time.sleep(1.5)
        assert alone(steps[1]) == "None\n"
    finally:
        userkey.drop("wharf:test")


@pytest.mark.skipif(not Path("/proc/keys").exists(), reason="this kernel has no keyrings")
async def test_a_passphrase_that_is_remembered(wharf: Wharf, tmp_path: Path, own_settings: Path) -> None:
    """Once typed it serves other processes, for as long as the settings say; a wrong one is not kept."""
    users = htpasswd(tmp_path / "htpasswd", "ann", "secret")
    name = f"wharf:{own_settings.parent / 'credentials.json'}"
    with registry(tmp_path / "registry", htpasswd=users) as address:
        words = ["push", f"{address}/box:1"]
        await wharf.ok("tag", wharf.image, f"{address}/box:1")
        asked = [("Username", "ann"), ("Password", "secret"), ("Passphrase", "open"), ("same again", "open")]
        assert (await type_into(wharf, ["login", "--encrypt", address], *asked))[0] == 0
        own_settings.write_text('[credentials]\nremember = "15m"\n')
        try:
            assert (await type_into(wharf, words, ("Passphrase", "wrong")))[0] == 1
            assert (await wharf(*words)).code == 1
            assert (await type_into(wharf, words, ("Passphrase", "open")))[0] == 0
            assert "digest: sha256:" in await wharf.ok(*words)
            userkey.put(name, b"changed", 60)
            assert (await wharf(*words)).code == 1
            assert userkey.get(name) is None
            userkey.put(name, b"open", 1)
            assert userkey.get(name) == b"open"
            await asyncio.sleep(1.5)
            assert (await wharf(*words)).code == 1
            userkey.put(name, b"open", 60)
            own_settings.write_text("[credentials]\n")
            assert (await wharf(*words)).code == 1  # nobody wants it any more
        finally:
            userkey.drop(name)
