"""An image's history: what its configuration tells of its making (image-spec, config.md), with the layers' sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.images.manifest import moment
from core.model import HistoryEntry, Image


def steps_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps that the configuration tells of, the first one first; what is none is left out."""
    told = document.get("history")
    return [step for step in told if isinstance(step, dict)] if isinstance(told, list) else []


def entries(image: Image, document: Mapping[str, Any], sizes: Sequence[int]) -> list[HistoryEntry]:
    """The steps, the last first; a layer that none of them tells of gets one.

    :param sizes: bytes of each layer, lowest first
    """
    found: list[HistoryEntry] = []
    layers = list(zip(image.layers, sizes, strict=False))
    for step in steps_of(document):
        layer, size = ("", 0) if step.get("empty_layer") or not layers else layers.pop(0)
        words = {key: str(step.get(key) or "") for key in ("created_by", "comment", "author")}
        found.append(
            HistoryEntry(
                image="",
                created=moment(step.get("created")),
                created_by=words["created_by"],
                size=size,
                comment=words["comment"],
                author=words["author"],
                layer=layer,
            )
        )
    found += [HistoryEntry("", 0.0, "", size, "", layer=layer) for layer, size in layers]
    if not found:
        return []
    last = found.pop()
    named = HistoryEntry(
        image=image.id,
        created=last.created or image.created,
        created_by=last.created_by,
        size=last.size,
        comment=last.comment,
        author=last.author,
        layer=last.layer,
        tags=image.tags,
    )
    return [named, *reversed(found)]
