"""The filter language of the lists: words that all must hold.

``web`` (anywhere in the row) · ``!web`` (nowhere) · ``~wb`` (its letters in that order) · ``state=running`` (a field
of the row, or a label) · ``!key=value``. Case does not matter. Pure; no Textual.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def _fuzzy(needle: str, text: str) -> bool:
    letters = iter(text)
    return all(letter in letters for letter in needle)


def _holds(term: str, fields: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    if term.startswith("~") and len(term) > 1:
        return any(_fuzzy(term[1:], value.lower()) for value in fields.values())
    key, equals, wanted = term.partition("=")
    if equals and key:
        if key in fields:
            return wanted in fields[key].lower()
        return any(key == name.lower() and wanted in value.lower() for name, value in labels.items())
    # An id is found by how it begins: any letter from a to f is somewhere in nearly all of them.
    begins = len(term) >= 3 and fields.get("id", "").removeprefix("sha256:").startswith(term)
    return begins or any(term in value.lower() for key, value in fields.items() if key != "id")


def matches(text: str, fields: Mapping[str, str], labels: Mapping[str, str] | None = None) -> bool:
    """True where every word of ``text`` holds for a row with these fields and labels."""
    for term in text.lower().split():
        inverse = term.startswith("!") and len(term) > 1
        if _holds(term[1:] if inverse else term, fields, labels or {}) == inverse:
            return False
    return True


def unknown(text: str, key: str, values: Iterable[str]) -> str:
    """The first value that ``text`` asks of a field and that none of ``values`` has; "" where each fits one."""
    known = list(values)
    for term in text.lower().split():
        name, equals, wanted = term.removeprefix("!").partition("=")
        if equals and name == key and not any(wanted in value for value in known):
            return wanted
    return ""


def needle(text: str) -> str:
    """The first plain word of a filter: what a list may highlight."""
    return next((term for term in text.split() if term[0] not in "!~" and "=" not in term), "")
