"""What a registry has, without pulling: catalogue, search, referrers, and whether a tag has moved on.

Sources: distribution-spec v1.1, "Listing Tags", "Listing Referrers"; Docker Registry HTTP API V2, "Catalog"; Docker
Hub's ``/v1/search``, which private registries mostly lack: there the catalogue is searched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.errors import Corrupt, NotFound, Unauthorized, Unavailable, WharfError
from core.images import manifest, platforms, reference
from core.images.answers import clean
from core.images.endpoints import own_endpoint
from core.images.listing import list_tags, next_page
from core.images.manifest import INDEXES, LONGEST, Index
from core.images.reference import HUB, Reference, is_digest
from core.images.registry import Params, Registry, finder, read_object
from core.images.transport import Request, Transport
from core.model import FoundRepository, Image, Referrer, TagCheck
from core.store.config import load

if TYPE_CHECKING:
    from core.images.store import ImageStore

_PAGE = 100
_HUB_SEARCH = "index.docker.io"
_MOST = 100_000  # repositories of a catalogue
_AT_ONCE = 8


async def tags(store: ImageStore, repository: str, *, insecure: bool = False) -> list[str]:
    """Every tag of a repository, in the registry's order. :raises NotFound: no such repository"""
    name = reference.parse_repository(repository)
    async with Registry(name, store.keyring, load(), insecure=insecure) as registry:
        try:
            return await list_tags(registry)
        except NotFound as error:
            raise NotFound(f"no such repository: {name.familiar}", error.why, "Check its name") from error


# -- the whole registry -------------------------------------------------------------------------------------------
async def catalogue(store: ImageStore, domain: str, *, insecure: bool = False) -> list[str]:
    """The repositories of a registry.

    :raises Unsupported: it does not tell, as most public ones
    :raises Unauthorized: not to us
    """
    name, settings = reference.parse_domain(domain), load()
    point = own_endpoint(name, settings.registries, insecure=insecure)
    async with Transport(point, finder(store.keyring, point, settings)) as place:
        return await _catalogue(place)


async def _catalogue(place: Transport) -> list[str]:
    found: dict[str, None] = {}
    params: Params = (("n", str(_PAGE * 10)),)
    while params and len(found) < _MOST:
        request = Request(
            "_catalog",
            params=params,
            scopes=("registry:catalog:*",),
            name="its list of repositories",
            missing=f"{place.endpoint.name} does not list its repositories",
        )
        document, headers = await _json(place, request)
        names, before = document.get("repositories") or [], len(found)
        if isinstance(names, list):
            found.update({clean(name): None for name in names if isinstance(name, str)})
        params = next_page(headers.get("Link", ""))
        if params and len(found) == before:
            break
    return list(found)


async def _json(place: Transport, request: Request) -> tuple[dict[str, Any], Mapping[str, str]]:
    async def attempt() -> tuple[dict[str, Any], Mapping[str, str]]:
        async with place.ask(request) as response:
            data = bytearray()
            async for piece in response.content.iter_any():
                data += piece
                if len(data) > LONGEST:
                    raise Corrupt("the registry's answer is too long", f"over {LONGEST} bytes", "Ask for less")
            return read_object(bytes(data)), response.headers

    return await place.again(attempt)


async def search(store: ImageStore, term: str, *, limit: int = 25, insecure: bool = False) -> list[FoundRepository]:
    """Repositories by a word in their name or description: Docker Hub's, or those of ``registry.lan:5000/word``.

    With a registry alone (``registry.lan/``, ``registry.lan:5000``) all that it lists.

    :raises Unavailable: the registry can neither be searched nor lists what it has
    """
    domain, word = _split_term(term)
    domain, settings = reference.parse_domain(domain), load()
    point = own_endpoint(domain, settings.registries, insecure=insecure)
    async with Transport(point, finder(store.keyring, point, settings)) as place:
        host = _HUB_SEARCH if domain == HUB else ""
        try:
            if word:
                return await _search(place, host, word, limit)
        except (NotFound, Unauthorized, Unavailable, Corrupt):
            if host:
                raise
        prefix = f"{domain}/"
        names = [name for name in await _catalogue(place) if word.lower() in name.lower()]
        return [FoundRepository(prefix + name) for name in names[:limit]]


def _split_term(term: str) -> tuple[str, str]:
    """(registry, word). A dot alone makes no registry of a word: people look for node.js."""
    domain, slash, word = term.partition("/")
    if reference.is_local(domain) or ":" in domain or (slash and "." in domain):
        return domain, word
    return HUB, term


async def _search(place: Transport, host: str, word: str, limit: int) -> list[FoundRepository]:
    found: list[FoundRepository] = []
    page, pages = 1, 1
    while len(found) < limit and page <= pages:
        params = (("q", word), ("n", str(min(limit, _PAGE))), ("page", str(page)))
        request = Request("", params=params, name="search", root=f"https://{host}/v1/search" if host else "/v1/search")
        document, _ = await _json(place, request)
        results = document.get("results")
        if not isinstance(results, list):
            raise Corrupt("the registry's answer is not understood", "it has no results", "Search elsewhere")
        more = [_result(item, place.endpoint.name) for item in results if isinstance(item, dict)]
        if not more:
            break  # whatever it says of the number of pages
        found += more
        pages = document["num_pages"] if isinstance(document.get("num_pages"), int) else 1
        page += 1
    return found[:limit]


def _result(item: Mapping[str, Any], domain: str) -> FoundRepository:
    name, stars = clean(str(item.get("name", ""))), item.get("star_count")
    return FoundRepository(
        name if domain == HUB else f"{domain}/{name}",
        clean(str(item.get("description") or "")),
        stars if isinstance(stars, int) else 0,
        bool(item.get("is_official")),
        bool(item.get("is_automated")),
    )


# -- one image ----------------------------------------------------------------------------------------------------
async def referrers(store: ImageStore, ref: str, kind: str = "", *, insecure: bool = False) -> list[Referrer]:
    """What names this image as its subject: signatures, bills of materials, attestations.

    :param kind: only those of this artifact type
    :raises NotFound: no such image
    """
    name = reference.parse(ref)
    async with Registry(name, store.keyring, load(), insecure=insecure) as registry:
        digest = name.digest or (await registry.head(name.tag))[0] or (await registry.manifest(name.tag))[2]
        listed = await _referring(registry, digest, kind)
    found = [_referrer(item) for item in listed if isinstance(item, dict)]
    return [one for one in found if is_digest(one.digest) and kind in ("", one.kind)]


async def _referring(registry: Registry, digest: str, kind: str) -> list[object]:
    """The entries of the index of what refers to ``digest``.

    distribution-spec, "Referrers Tag Schema": where the registry does not know them, a tag does.
    """
    params: Params = (("artifactType", kind),) if kind else ()
    for path, asked in ((f"referrers/{digest}", params), (f"manifests/{digest.replace(':', '-')}", ())):
        try:
            data, _ = await registry.document(path, INDEXES[0], params=asked)
        except (NotFound, Unavailable):
            continue
        listed = read_object(data).get("manifests")
        if isinstance(listed, list):
            return listed
    return []


def _referrer(item: Mapping[str, Any]) -> Referrer:
    notes, size = item.get("annotations"), item.get("size")
    return Referrer(
        str(item.get("digest", "")),
        clean(str(item.get("artifactType") or item.get("mediaType") or "")),
        size if isinstance(size, int) else 0,
        {clean(str(key)): clean(str(value)) for key, value in notes.items()} if isinstance(notes, dict) else {},
    )


async def check(store: ImageStore, refs: list[str], *, insecure: bool = False) -> list[TagCheck]:
    """Whether the registry means something newer by each tag; a HEAD for each, nothing is pulled."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(ref: str) -> TagCheck:
        async with slots:
            try:
                name, image = reference.parse(ref), await store.get(ref)
            except NotFound:
                return TagCheck(ref, "unknown", why="no such image: it is not in the store")
            except WharfError as error:
                return TagCheck(ref, "unknown", why=str(error))
            if str(name) not in image.tags:
                why = "a digest means the same for ever; name a tag" if name.digest else "it has no name to check"
                return TagCheck(ref, "unknown", why=why)
            try:
                return await _check(store, image, name, insecure=insecure)
            except NotFound as error:
                return TagCheck(name.familiar, "gone", why=error.why)
            except WharfError as error:
                wants = isinstance(error, Unauthorized)
                return TagCheck(name.familiar, "unknown", why=str(error), login=wants)

    return list(await asyncio.gather(*(one(ref) for ref in refs)))


async def _check(store: ImageStore, image: Image, name: Reference, *, insecure: bool) -> TagCheck:
    start = f"{name.name}@"
    here = [text.removeprefix(start) for text in image.repo_digests if text.startswith(start)]
    if not here:
        return TagCheck(name.familiar, "local", why="it did not come from there")
    async with Registry(name, store.keyring, load(), insecure=insecure) as registry:
        digest, kind = await registry.head(name.tag)
        if digest in here:
            return TagCheck(name.familiar, "current", digest, digest)
        if digest and kind.partition(";")[0] not in INDEXES:
            return TagCheck(name.familiar, "newer", here[0], digest)
        # The index has changed; perhaps not for this platform.
        data, kind, digest = await registry.manifest(name.tag)
    document = manifest.parse(data, kind)
    if digest not in here and isinstance(document, Index):
        wanted = platforms.of_image(image)
        rows = store.store.disk.read("SELECT manifest_digest FROM image WHERE id = ?", (image.id,))
        if manifest.choose(document, wanted).digest == rows[0]["manifest_digest"]:
            return TagCheck(name.familiar, "current", here[0], digest, "it has changed for other platforms only")
    return TagCheck(name.familiar, "current" if digest in here else "newer", here[0], digest)
