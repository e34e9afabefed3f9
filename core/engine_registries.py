"""The part of the engine's protocol that is about registries; :mod:`core.engine` has the whole.

``insecure``: plain HTTP and untrusted certificates are allowed. A registry is host[:port]; "" is Docker Hub.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from core.model import FoundRepository, Login, Logout, PushProgress, Referrer, TagCheck


class RegistryEngine(Protocol):
    """What a face may ask for about registries, but for pulls (:meth:`core.engine_images.ImageEngine.pull`)."""

    async def login(
        self, registry: str, user: str = "", password: str = "", *, insecure: bool = False, store: str = ""
    ) -> Login:
        """Try credentials and keep them; without ``user`` those that are kept already are tried.

        :param store: ``file``, ``encrypted``, a credential helper's name; empty: as the settings or docker's say
        :raises Unauthorized: the registry refuses them
        :raises Locked: the store is, or is to be, encrypted: :meth:`unlock_credentials` first
        """
        ...

    def push(self, reference: str, *, insecure: bool = False, compression: str = "") -> AsyncIterator[PushProgress]:
        """Send a tag's image to its registry; the last state has the digest. Closing the iterator cancels.

        :param compression: gzip, zstd, none; empty: whatever the registry has already, else gzip
        """
        ...

    async def logout(self, registry: str) -> Logout: ...

    async def unlock_credentials(self, passphrase: str) -> None:
        """For the encrypted store, as long as this engine is open. Whether it is right shows at its first use."""
        ...

    async def tags(self, repository: str, *, insecure: bool = False) -> list[str]:
        """Every tag that the registry has, in its order."""
        ...

    async def catalogue(self, registry: str, *, insecure: bool = False) -> list[str]:
        """The repositories of a registry, where it lists them."""
        ...

    async def search_registry(self, term: str, *, limit: int = 25, insecure: bool = False) -> list[FoundRepository]:
        """Docker Hub by a word, or another registry by ``registry.lan:5000/word``."""
        ...

    async def referrers(self, reference: str, *, kind: str = "", insecure: bool = False) -> list[Referrer]:
        """Signatures, bills of materials … of an image in a registry; with ``kind`` only those of that type."""
        ...

    async def check_images(self, references: Sequence[str] = (), *, insecure: bool = False) -> list[TagCheck]:
        """Whether registries have something newer by these names (default: by every tag here). Nothing is pulled."""
        ...
