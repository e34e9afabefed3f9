"""References, manifests and configurations: what is read, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from core.errors import Corrupt, InvalidArgument, NotFound, Unauthorized, Unsupported
from core.images import auth, manifest
from core.images.layers import chain_ids
from core.images.manifest import Index, Manifest, Platform
from core.images.reference import parse, reaches_us
from tests.images import OCI, describe, image, sha

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "whole", "familiar", "host"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest", "registry-1.docker.io"),
        ("busybox:1", "docker.io/library/busybox:1", "busybox:1", "registry-1.docker.io"),
        ("team/app", "docker.io/team/app:latest", "team/app:latest", "registry-1.docker.io"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest", "registry-1.docker.io"),
        ("ghcr.io/a/b_c/d--e:V.1-x", "ghcr.io/a/b_c/d--e:V.1-x", "ghcr.io/a/b_c/d--e:V.1-x", "ghcr.io"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest", "localhost"),
        ("127.0.0.1:5000/x:1", "127.0.0.1:5000/x:1", "127.0.0.1:5000/x:1", "127.0.0.1:5000"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest", "[::1]:5000"),
        ("Registry/x", "Registry/x:latest", "Registry/x:latest", "Registry"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}", "registry-1.docker.io"),
        (f"a:1@{DIGEST}", f"docker.io/library/a:1@{DIGEST}", f"a:1@{DIGEST}", "registry-1.docker.io"),
    ],
)
def test_references(text: str, whole: str, familiar: str, host: str) -> None:
    found = parse(text)
    assert (str(found), found.familiar, found.host) == (whole, familiar, host)
    assert parse(found.familiar) == found


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":",
            "/",
            "a/",
            "/a",
            "A",
            "a/B",
            "a:",
            "a:.x",
            "a:" + "t" * 129,
            "a@",
            "a@sha256:1",
            "a@md5:" + "a" * 32,
        ),
        *("a" * 64, "a..b", "a___b", "-a", "a b", "a\n", "a:x\n", "host:99999999/a", "..:5000/a", "a/../b", "é"),
        *("h.x/" + "n" * 256, "a@sha256:" + "A" * 64, "http://x/y"),
    ],
)
def test_bad_references(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text)
    assert caught.value.why


def test_only_loopback_is_local() -> None:
    assert all(parse(f"{host}/x").local for host in ("localhost", "localhost:1", "127.0.0.1", "127.9.9.9:5", "[::1]:5"))
    assert not any(parse(f"{host}/x").local for host in ("docker.io", "10.0.0.1:5000", "127.0.0.1.evil.org", "a.b"))


def test_what_reaches_this_machine() -> None:
    ours = ("localhost", "LOCALHOST.", "x.localhost", "127.1", "2130706433", "0x7f.1", "0", "0.0.0.0", "::1", "[::]")
    assert all(map(reaches_us, (*ours, "::ffff:127.0.0.1", "127.0.0.1.")))
    assert not any(map(reaches_us, ("", "docker.io", "10.0.0.1", "2001:db8::1", "127.0.0.1.evil.org", "localhost.org")))


def documents(**change: Any) -> bytes:
    made = image([b""])
    return json.dumps(json.loads(made.blobs[made.manifest]) | change).encode()


def test_a_manifest() -> None:
    made = image([b"one", b"two"])
    found = manifest.parse(made.blobs[made.manifest], manifest.MANIFESTS[0])
    assert isinstance(found, Manifest)
    assert [layer.digest for layer in found.layers] == made.layers


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (documents(manifests=[]), ""),
        (documents(schemaVersion=3), ""),
        (documents(mediaType=manifest.INDEXES[0]), ""),
        (documents(), manifest.INDEXES[0]),
        (documents(), manifest.MANIFESTS[1]),
        (documents(layers={}), ""),
        (documents(layers=[1]), ""),
        (documents(layers=[{"digest": "sha256:../../etc/passwd", "size": 1, "mediaType": "x"}]), ""),
        (documents(layers=[{"digest": DIGEST, "size": -1, "mediaType": "x"}]), ""),
        (documents(layers=[{"digest": DIGEST, "size": True, "mediaType": "x"}]), ""),
        (documents(layers=[{"digest": DIGEST, "size": "1", "mediaType": "x"}]), ""),
        (documents(layers=[{"digest": DIGEST, "size": 1, "mediaType": "x"}] * 501), ""),
        (documents(config=None), ""),
        (b"[]", ""),
        (b"{", ""),
        (b"\xff", ""),
        (b"[" * 200_000, ""),
        (b'{"a":' * 400_000, ""),
        # What two readers understand differently.
        (documents().replace(b'{"schemaVersion"', b'{"layers": [], "schemaVersion"', 1), ""),
        (documents().replace(b'"size"', b'"digest": "%s", "size"' % DIGEST.encode(), 1), ""),
        (documents(Layers=[]), ""),
        (documents(MANIFESTS=[]), ""),
        (documents(layers=[{"digest": DIGEST, "Digest": DIGEST, "size": 1, "mediaType": f"{OCI}.layer.v1.tar"}]), ""),
        (documents().decode().encode("utf-16"), ""),
        (b"\xef\xbb\xbf" + documents(), ""),
        (documents() + b"{}", ""),
        (documents(layers=[{"digest": DIGEST, "size": 1e300, "mediaType": "x"}]), ""),
        (b'{"schemaVersion": 2, "manifests": NaN}', ""),
        (b'{"schemaVersion": 1%s}' % (b"0" * 10_000), ""),
        (b" " * (manifest.LONGEST + 1), ""),
        (b"{}", ""),
    ],
)
def test_bad_manifests(data: bytes, kind: str) -> None:
    with pytest.raises(Corrupt) as caught:
        manifest.parse(data, kind)
    assert caught.value.why


def test_what_is_not_an_image() -> None:
    with pytest.raises(Unsupported, match="schema 1"):
        manifest.parse(b'{"schemaVersion": 1}')
    chart = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": DIGEST, "size": 1}
    with pytest.raises(Unsupported, match="helm"):
        manifest.parse(documents(config=chart))
    secret = {"mediaType": f"{OCI}.layer.v1.tar+gzip+encrypted", "digest": DIGEST, "size": 1}
    with pytest.raises(Unsupported, match="encrypted"):
        manifest.parse(documents(layers=[secret]))


def test_what_goes_with_an_image_is_passed_over() -> None:
    """Signatures and attestations in an index, whatever platform they claim; fields that nobody knows."""
    here = {"os": "linux", "architecture": "amd64"}
    other = [describe(b"x", "application/vnd.example.sbom.v1+json", platform=here)]
    other += [describe(b"y", "application/vnd.in-toto+json"), describe(b"z", manifest.MANIFESTS[0], platform=here)]
    document = {"schemaVersion": 2, "manifests": other, "subject": other[0], "artifactType": "a/b", "future": [{}]}
    found = manifest.parse(json.dumps(document).encode())
    assert isinstance(found, Index)
    assert manifest.choose(found, Platform("linux", "amd64")).digest == sha(b"z")


def index(*platforms: Platform | None) -> Index:
    entries = []
    for number, platform in enumerate(platforms):
        entry = describe(bytes([number]), manifest.MANIFESTS[0])
        if platform:
            names = {"os": platform.os, "architecture": platform.architecture, "variant": platform.variant}
            entry["platform"] = {key: value for key, value in names.items() if value}
        entries.append(entry)
    found = manifest.parse(json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
    assert isinstance(found, Index)
    return found


def test_the_platform_is_chosen() -> None:
    arm6, arm7, arm = Platform("linux", "arm", "v6"), Platform("linux", "arm", "v7"), Platform("linux", "arm")
    amd, unknown = Platform("linux", "amd64"), Platform("unknown", "unknown")
    assert manifest.choose(index(unknown, arm6, amd), amd).digest == sha(b"\2")
    assert manifest.choose(index(arm6, arm7), arm7).digest == sha(b"\1")
    assert manifest.choose(index(arm6, arm), arm7).digest == sha(b"\1")
    assert manifest.choose(index(None), amd).digest == sha(b"\0")
    with pytest.raises(NotFound, match="linux/arm/v6"):
        manifest.choose(index(arm6, unknown), amd)


def config(**fields: Any) -> bytes:
    return json.dumps({"rootfs": {"diff_ids": [DIGEST]}, "config": fields}).encode()


def test_a_configuration() -> None:
    found = manifest.parse_config(
        config(
            Entrypoint="run it",
            Cmd=None,
            ExposedPorts={"80/tcp": {}},
            Volumes={"/v": {}},
            Labels={"io.wharfinger.privileged": "yes", "mine": "1"},
        )
    )
    assert found.image.entrypoint == ("/bin/sh", "-c", "run it")
    assert (found.image.exposed_ports, found.image.volumes) == (("80/tcp",), ("/v",))
    assert found.image.labels == {"mine": "1"}  # CVE-2026-53488: an image must not steer the engine


@pytest.mark.parametrize(
    "data",
    [
        *(config(Env="A=b\0"), config(Cmd=[1]), config(User=1), config(Labels={"a": 1}), config(ExposedPorts=[1])),
        *(b'{"rootfs": {"diff_ids": ["sha256:x"]}}', b'{"rootfs": {"diff_ids": 5}}', b'{"config": 5}'),
        *(b'{"config": {}, "Config": {}}', b'{"config": {"User": "app", "User": "root"}}', b'{"RootFS": {}}'),
        b'{"rootfs": {"diff_ids": [], "Diff_IDs": []}}',
    ],
)
def test_bad_configurations(data: bytes) -> None:
    with pytest.raises(Corrupt):
        manifest.parse_config(data)


def test_chain_ids() -> None:
    """The value of the second is sha256 of both, as image-spec's config.md defines it."""
    one, two = sha(b"1"), sha(b"2")
    assert chain_ids([one, two]) == [one, sha(f"{one} {two}".encode())]


def test_challenges() -> None:
    found = auth.parse_challenge('Bearer realm="https://a/t?x=1,2",service="s, t",scope="repository:a/b:pull,push"')
    assert (found.scheme, found.realm, found.service) == ("bearer", "https://a/t?x=1,2", "s, t")
    assert found.scope == "repository:a/b:pull,push"
    assert auth.parse_challenge("").scheme == ""


def test_who_may_see_credentials() -> None:
    assert auth.check_realm("https://auth.docker.io/token", "registry-1.docker.io", plain=False)
    assert auth.check_realm("https://r.example.org:444/token", "r.example.org:443", plain=False)
    assert auth.check_realm("http://127.0.0.1:6/token", "127.0.0.1:5", plain=True)
    assert not auth.check_realm("https://evil.org/token", "r.example.org", plain=False)
    assert not auth.check_realm("https://example.org.evil.org/", "r.example.org", plain=False)
    for realm in ("http://r.example.org/", "ftp://r.example.org/", "https://127.0.0.1/", "https://localhost/", "", "x"):
        with pytest.raises(Unauthorized):
            auth.check_realm(realm, "r.example.org", plain=False)


def test_the_store_imports_without_http() -> None:
    """`wharf ps` must not pay for aiohttp, isal and zstd."""
    code = (
        "import core.images.store, sys; print([m for m in ('aiohttp', 'isal', 'backports.zstd') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
