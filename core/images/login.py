"""``login``: credentials are tried at the registry before they are kept, exchanged for a token where it gives one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import InvalidArgument, Unauthorized
from core.images import reference
from core.images.auth import Credentials
from core.images.endpoints import own_endpoint
from core.images.transport import Request, Transport
from core.model import Login
from core.store.config import load

if TYPE_CHECKING:
    from core.images.store import ImageStore


async def login(
    store: ImageStore, registry: str, user: str, password: str, *, insecure: bool = False, place: str = ""
) -> Login:
    """Try, then keep them. Without ``user`` those that are kept already are tried.

    :param place: see :meth:`core.images.keyring.Keyring.keep`
    :raises Unauthorized: the registry refuses them
    """
    domain, settings = reference.parse_domain(registry), load()
    point = own_endpoint(domain, settings.registries, insecure=insecure)
    if user and ":" in user:
        raise InvalidArgument(f"invalid user name {user!r}", "it has a colon, where the password begins", "Check it")
    given = Credentials(user, password) if user else await store.keyring.find(domain, settings.credentials)
    if given is None:
        raise Unauthorized(f"there are no credentials for {domain}", "nobody has logged in", "Give a user name")
    asked = False

    async def find() -> Credentials:
        nonlocal asked
        asked = True
        return given

    async with Transport(point, find, offline=not given.identity_token) as transport:
        try:
            await transport.again(lambda: _knock(transport))
        except Unauthorized as error:
            who = f"of {given.user}" if given.user else "that are stored"
            fix = error.fix if "realms" in error.fix else "Check them; some registries want an access token instead"
            raise Unauthorized(f"{domain} refuses the credentials {who}", error.why, fix) from error
        token = transport.identity_token
    if not user:
        return Login(domain, given.user, "", asked)
    # A token can be taken back at the registry without another password; the name is for people.
    kept = Credentials(user, "", token) if token else given
    where = await store.keyring.keep(domain, kept, settings.credentials, place)
    return Login(domain, user, where, asked)


async def _knock(transport: Transport) -> None:
    domain = transport.endpoint.name
    request = Request("", good=(200,), name="", missing=f"{domain} is not a registry: it has no /v2/")
    async with transport.ask(request) as response:
        await response.content.read(1)
