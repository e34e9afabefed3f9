"""``--change``: instructions of a Dockerfile that only say how an image's containers run.

Grammar: Dockerfile reference; words and variables as Docker's shell lexer reads them. ``config`` is the object
``config`` of an image configuration (image-spec, config.md; Docker Image Specification v1.2), changed in place.
"""

from __future__ import annotations

import json
import posixpath
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from core.errors import InvalidArgument
from core.units import parse_duration

Config = dict[str, Any]
_SECOND = 1_000_000_000  # nanoseconds, in which images write durations
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHELL = ["/bin/sh", "-c"]


def apply(config: Config, changes: Sequence[str]) -> None:
    """Carry out every instruction of ``changes``, each of which may have several lines.

    :raises InvalidArgument: which one, and why
    """
    done: set[str] = set()
    for change in changes:
        for line in _lines(change):
            word, _, rest = line.partition(" ")
            work = _VERBS.get(word.upper())
            if work is None:
                raise _bad(line, f"{word[:40]!r} is none of {' '.join(sorted(_VERBS))}")
            if not rest.strip():
                raise _bad(line, f"{word.upper()} needs an argument")
            work(config, rest.strip(), line)
            done.add(word.upper())
    if "ENTRYPOINT" in done and "CMD" not in done:
        config.pop("Cmd", None)  # it was meant for the old one


def _bad(line: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"invalid change {line[:100]!r}", why, "Write it like --change 'ENV KEY=VALUE'")


def _lines(text: str) -> Iterator[str]:
    """Instructions: joined where a line ends with a backslash, without empty lines and comments."""
    held = ""
    for line in text.splitlines():
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        held += bare.removesuffix("\\")
        if not bare.endswith("\\"):
            yield held.replace("\t", " ").strip()
            held = ""
    if held.strip():
        yield held.strip()


# -- words ------------------------------------------------------------------------------------------------------


def _words(text: str) -> list[str]:
    """Split at blanks that no quote and no backslash protects; quotes stay for :func:`_expand`."""
    words: list[str] = []
    word, quote, escaped = "", "", False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char.isspace():
            if word:
                words.append(word)
            word = ""
            continue
        word += char
    return [*words, word] if word else words


def _expand(text: str, config: Config, line: str) -> str:
    """Take quotes and backslashes away, put the values of variables in."""
    env = dict(item.partition("=")[::2] for item in config.get("Env") or [])
    found, at, quote = [], 0, ""
    while at < len(text):
        char = text[at]
        at += 1
        if char == "\\" and quote != "'" and at < len(text):
            if quote and text[at] not in '"$\\':
                found.append(char)
            found.append(text[at])
            at += 1
        elif char == quote or (not quote and char in "'\""):
            quote = "" if quote else char
        elif char == "$" and quote != "'":
            value, at = _variable(text, at, env, line)
            found.append(value)
        else:
            found.append(char)
    if quote:
        raise _bad(line, f"the quote {quote} is not closed")
    return "".join(found)


def _variable(text: str, at: int, env: dict[str, str], line: str) -> tuple[str, int]:
    """The value of the variable whose name begins at ``at``, and where it ends."""
    braced = text[at : at + 1] == "{"
    match = _NAME.match(text, at + braced)
    if not match:
        if braced:
            raise _bad(line, "${ is not followed by a name")
        return "$", at
    name, end = match[0], match.end()
    if not braced:
        return env.get(name, ""), end
    close = text.find("}", end)
    if close < 0:
        raise _bad(line, "${ is not closed")
    how, word = text[end : end + 2], text[end + 2 : close]
    value = env.get(name, "")
    if how.startswith(":-"):
        value = value or word
    elif how.startswith(":+"):
        value = word if value else ""
    elif close != end:
        raise _bad(line, f"${{{name}…}} may only have :- or :+ behind the name")
    return value, close + 1


def _list(text: str) -> list[str] | None:
    """A JSON list of texts; None where it is none."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, list) and all(isinstance(item, str) for item in found) else None


def _pairs(rest: str, config: Config, line: str) -> dict[str, str]:
    """``KEY=VALUE …``, or the old ``KEY VALUE``."""
    words = _words(rest)
    if "=" not in words[0]:
        name, _, value = rest.partition(" ")
        if not value.strip():
            raise _bad(line, f"{name!r} has no value")
        return {_expand(name, config, line): _expand(value.strip(), config, line)}
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = _expand(key, config, line)
        if not equals or not key:
            raise _bad(line, f"{word!r} is not KEY=VALUE")
        found[key] = _expand(value, config, line)
    return found


# -- instructions -----------------------------------------------------------------------------------------------


def _command(config: Config, rest: str) -> list[str]:
    words = _list(rest)
    return [*(config.get("Shell") or _SHELL), rest] if words is None else words


def _cmd(config: Config, rest: str, line: str) -> None:
    config["Cmd"] = _command(config, rest)


def _entrypoint(config: Config, rest: str, line: str) -> None:
    config["Entrypoint"] = _command(config, rest) or None


def _env(config: Config, rest: str, line: str) -> None:
    env = dict(item.partition("=")[::2] for item in config.get("Env") or [])
    env.update(_pairs(rest, config, line))
    config["Env"] = [f"{key}={value}" for key, value in env.items()]


def _label(config: Config, rest: str, line: str) -> None:
    config["Labels"] = {**(config.get("Labels") or {}), **_pairs(rest, config, line)}


def _expose(config: Config, rest: str, line: str) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    for word in _words(rest):
        match = _PORT.fullmatch(_expand(word, config, line))
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if match is None or not 0 < low <= high < 65536:
            raise _bad(line, f"{word!r} is not a port like 80, 80/udp or 8000-8010")
        ports.update({f"{number}/{(match[3] or 'tcp').lower()}": {} for number in range(low, high + 1)})
    config["ExposedPorts"] = ports


def _user(config: Config, rest: str, line: str) -> None:
    config["User"] = _single(config, rest, line)


def _workdir(config: Config, rest: str, line: str) -> None:
    path = posixpath.join("/", config.get("WorkingDir") or "", _single(config, rest, line))
    config["WorkingDir"] = "/" + posixpath.normpath(path).lstrip("/")  # POSIX leaves two slashes at the front


def _single(config: Config, rest: str, line: str) -> str:
    value = _expand(rest, config, line)
    if not value:
        raise _bad(line, "it says nothing")
    return value


def _volume(config: Config, rest: str, line: str) -> None:
    paths = _list(rest)
    found = [_expand(word, config, line) for word in _words(rest)] if paths is None else paths
    if not all(path.strip() for path in found):
        raise _bad(line, "a volume has no path")
    config["Volumes"] = {**(config.get("Volumes") or {}), **{path: {} for path in found}}


def _stopsignal(config: Config, rest: str, line: str) -> None:
    value = _single(config, rest, line)
    name, _, offset = value.upper().removeprefix("SIG").partition("+")
    try:
        number = int(name) if name.isdigit() else signal.Signals[f"SIG{name}"].value + int(offset or 0)
    except (KeyError, ValueError):
        number = 0
    if not 0 < number < signal.NSIG:
        raise _bad(line, f"there is no signal {value!r}")
    config["StopSignal"] = value


def _healthcheck(config: Config, rest: str, line: str) -> None:
    check: dict[str, Any] = {}
    while rest.startswith("--"):
        word, _, rest = rest.partition(" ")
        name, equals, value = word[2:].partition("=")
        rest = rest.lstrip()
        if not equals or name not in _CHECKS:
            raise _bad(line, f"{word!r} is none of {', '.join(f'--{key}=' for key in _CHECKS)}")
        if name == "retries":
            if not value.isdecimal():
                raise _bad(line, f"{value!r} is not a number of retries")
            check[_CHECKS[name]] = int(value)
        else:
            check[_CHECKS[name]] = round(parse_duration(value) * _SECOND)
    kind, _, command = rest.partition(" ")
    if kind.upper() == "NONE" and not check and not command:
        config["Healthcheck"] = {"Test": ["NONE"]}
        return
    if kind.upper() != "CMD" or not command.strip():
        raise _bad(line, "a health check is NONE, or CMD and a command")
    words = _list(command.strip())
    config["Healthcheck"] = {"Test": ["CMD-SHELL", command.strip()] if words is None else ["CMD", *words], **check}


def _onbuild(config: Config, rest: str, line: str) -> None:
    if rest.partition(" ")[0].upper() in ("ONBUILD", "FROM", "MAINTAINER"):
        raise _bad(line, "ONBUILD takes any instruction but ONBUILD, FROM and MAINTAINER")
    config["OnBuild"] = [*(config.get("OnBuild") or []), rest]


_CHECKS = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
    "retries": "Retries",
}
_VERBS: dict[str, Callable[[Config, str, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
