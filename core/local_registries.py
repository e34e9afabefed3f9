"""The part of :class:`core.local.LocalEngine` that is about registries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from core.border import verb

if TYPE_CHECKING:
    from core.model import FoundRepository, Login, Logout, PushProgress, Referrer, TagCheck
    from core.ops.context import Context


class RegistryVerbs:
    """Implements :class:`core.engine_registries.RegistryEngine`. Each method is one verb of ``ops/``."""

    _ctx: Context

    @verb("log in to the registry")
    async def login(
        self, registry: str, user: str = "", password: str = "", *, insecure: bool = False, store: str = ""
    ) -> Login:
        from core.ops.login import login

        return await login(self._ctx, registry, user, password, insecure=insecure, store=store)

    def push(self, reference: str, *, insecure: bool = False, compression: str = "") -> AsyncIterator[PushProgress]:
        from core.ops.push import push

        return push(self._ctx, reference, insecure=insecure, compression=compression)

    @verb("log out of the registry")
    async def logout(self, registry: str) -> Logout:
        from core.ops.logout import logout

        return await logout(self._ctx, registry)

    async def unlock_credentials(self, passphrase: str) -> None:
        self._ctx.images.keyring.unlock(passphrase)

    @verb("list the tags")
    async def tags(self, repository: str, *, insecure: bool = False) -> list[str]:
        from core.ops.tags import tags

        return await tags(self._ctx, repository, insecure=insecure)

    @verb("list the registry's repositories")
    async def catalogue(self, registry: str, *, insecure: bool = False) -> list[str]:
        from core.ops.catalogue import catalogue

        return await catalogue(self._ctx, registry, insecure=insecure)

    @verb("search the registry")
    async def search_registry(self, term: str, *, limit: int = 25, insecure: bool = False) -> list[FoundRepository]:
        from core.ops.search import search

        return await search(self._ctx, term, limit=limit, insecure=insecure)

    @verb("list the referrers")
    async def referrers(self, reference: str, *, kind: str = "", insecure: bool = False) -> list[Referrer]:
        from core.ops.referrers import referrers

        return await referrers(self._ctx, reference, kind, insecure=insecure)

    @verb("check the images")
    async def check_images(self, references: Sequence[str] = (), *, insecure: bool = False) -> list[TagCheck]:
        from core.ops.check_images import check_images

        return await check_images(self._ctx, references, insecure=insecure)
