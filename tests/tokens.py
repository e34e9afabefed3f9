"""A token service on loopback (distribution, "Token Authentication"): its tokens are such as docker-registry checks."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import BasicAuth, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.registry import Certificates


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class TokenServer:
    """``users`` with their passwords; ``public`` repositories may be pulled by anybody."""

    certificates: Certificates
    users: dict[str, str] = field(default_factory=dict)
    public: set[str] = field(default_factory=set)
    refresh: dict[str, str] = field(default_factory=dict)  # identity tokens, to users
    seen: list[tuple[str, list[str], str]] = field(default_factory=list)  # method, scopes, user
    address: str = ""

    def registry_config(self) -> str:
        """For docker-registry's configuration."""
        return (
            f"auth:\n  token:\n    realm: http://{self.address}/token\n    service: test-registry\n"
            f"    issuer: test-issuer\n    rootcertbundle: {self.certificates.ca}\n"
        )

    async def answer(self, request: web.Request) -> web.Response:
        user = ""
        if request.method == "POST":
            form = await request.post()
            scopes = [word for word in str(form.get("scope", "")).split(" ") if word]
            user = self.refresh.get(str(form["refresh_token"]), "")
            if not user:
                return web.json_response({"error": "invalid_grant"}, status=401)
        else:
            scopes = request.query.getall("scope", [])
            if header := request.headers.get("Authorization"):
                given = BasicAuth.decode(header)
                if self.users.get(given.login) != given.password:
                    return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401)
                user = given.login
        self.seen.append((request.method, scopes, user))
        document = {"token": self._token(user, scopes)}
        if request.query.get("offline_token") == "true" and user:
            secret = hashlib.sha256(user.encode()).hexdigest()
            self.refresh[secret] = user
            document["refresh_token"] = secret
        return web.json_response(document)

    def _token(self, user: str, scopes: list[str]) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            allowed = actions.split(",") if user else ["pull"] if name in self.public else []
            access.append(
                {"type": kind, "name": name, "actions": [word for word in actions.split(",") if word in allowed]}
            )
        now = int(time.time())
        claims = {
            "iss": "test-issuer",
            "sub": user,
            "aud": "test-registry",
            "exp": now + 300,
            "nbf": now - 60,
            "iat": now,
            "jti": "1",
            "access": access,
        }
        certificate, key_file = self.certificates.server
        der = x509.load_pem_x509_certificate(certificate.read_bytes()).public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        text = f"{_b64(json.dumps(header).encode())}.{_b64(json.dumps(claims).encode())}"
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@contextlib.asynccontextmanager
async def token_server(certificates: Certificates) -> AsyncIterator[TokenServer]:
    server = TokenServer(certificates)
    app = web.Application()
    app.router.add_route("*", "/token", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.address = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def helper(folder: Path, name: str) -> Path:
    """A credential helper that keeps what it is told in a file; ``folder`` must be on PATH. Returns that file."""
    store = folder / f"{name}.json"
    program = folder / f"docker-credential-{name}"
    program.write_text(
        f"""#!/usr/bin/env -S python3 -IS
import json, pathlib, sys
file = pathlib.Path({str(store)!r})
known = json.loads(file.read_text()) if file.exists() else {{}}
said = sys.stdin.read()
if sys.argv[1] == "store":
    entry = json.loads(said)
    known[entry["ServerURL"]] = [entry["Username"], entry["Secret"]]
elif said not in known:
    print("credentials not found in native keychain")
    sys.exit(1)
elif sys.argv[1] == "get":
    print(json.dumps({{"ServerURL": said, "Username": known[said][0], "Secret": known[said][1]}}))
else:
    del known[said]
file.write_text(json.dumps(known))
"""
    )
    program.chmod(0o755)
    return store
