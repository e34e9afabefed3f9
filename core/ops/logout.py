"""``logout``: forget the credentials for a registry."""

from __future__ import annotations

from core.images.reference import parse_domain
from core.model import Logout
from core.ops.context import Context
from core.store.config import load


async def logout(ctx: Context, registry: str) -> Logout:
    """See :meth:`core.engine_images.ImageEngine.logout`."""
    domain = parse_domain(registry)
    removed, left = await ctx.images.keyring.forget(domain, load().credentials)
    return Logout(domain, removed, left)
