"""Credential helpers: programs called ``docker-credential-NAME`` (github.com/docker/docker-credential-helpers).

The request goes to standard input, the answer comes as JSON; a user called ``<token>`` has an identity token in
place of a password. Their words for "nothing stored" are part of the protocol.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil

from core.errors import InvalidArgument, Unauthorized
from core.images.auth import Credentials

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_NOTHING = "credentials not found in native keychain"
_PATIENCE = 60.0  # seconds: one may ask its user
_TOKEN = "<token>"


async def _call(name: str, action: str, data: str) -> tuple[int, str]:
    """(exit code, output). :raises Unauthorized: it cannot be run, or hangs"""
    program = shutil.which(f"docker-credential-{name}") if _NAME.fullmatch(name) else None
    if program is None:
        raise Unauthorized(
            f"the credential helper {name!r} is missing",
            f"there is no program docker-credential-{name}",
            "Install it, or take it out of docker's config.json",
        )
    pipe = asyncio.subprocess.PIPE
    # Its complaints go where ours go: some ask for a password there.
    process = await asyncio.create_subprocess_exec(program, action, stdin=pipe, stdout=pipe)
    try:
        out, _ = await asyncio.wait_for(process.communicate(data.encode()), _PATIENCE)
    except TimeoutError as error:
        raise Unauthorized(
            f"the credential helper {name!r} does not answer", f"for {_PATIENCE:g} s", "End it"
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(errors="replace").strip()


def _failed(name: str, action: str, why: str) -> Unauthorized:
    return Unauthorized(
        f"the credential helper {name!r} failed to {action}",
        " ".join(why.split())[:300] or "it does not say why",
        f"Try docker-credential-{name} by hand",
    )


async def get(name: str, server: str) -> Credentials | None:
    """What the helper knows about ``server``. :raises Unauthorized: it failed"""
    code, out = await _call(name, "get", server)
    if code:
        if out == _NOTHING:
            return None
        raise _failed(name, "get", out)
    try:
        document = json.loads(out)
        user, secret = str(document["Username"]), str(document["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise _failed(name, "get", "its answer is not in the helpers' format") from error
    return Credentials("", "", secret) if user == _TOKEN else Credentials(user, secret)


async def put(name: str, server: str, credentials: Credentials) -> None:
    """:raises Unauthorized: it failed"""
    user = _TOKEN if credentials.identity_token else credentials.user
    secret = credentials.identity_token or credentials.password
    code, out = await _call(name, "store", json.dumps({"ServerURL": server, "Username": user, "Secret": secret}))
    if code:
        raise _failed(name, "store", out)


async def erase(name: str, server: str) -> bool:
    """False where it had none. :raises Unauthorized: it failed"""
    if await get(name, server) is None:
        return False
    code, out = await _call(name, "erase", server)
    if code and out != _NOTHING:
        raise _failed(name, "erase", out)
    return True


def check_name(name: str) -> str:
    """:raises InvalidArgument: not a helper's name"""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"{name!r} is not a credential helper", "names are letters, digits and _ . -", "Name one")
    return name
