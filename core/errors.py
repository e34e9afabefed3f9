"""One tree of errors, for every face of the engine.

::

    WharfError                  exit  meaning
    ├── NotFound                  1   no such container, image, network, …
    │   └── NoPlatform            1   there is an image, but none for the platform
    ├── Conflict                  1   name taken, object in use, wrong state
    │   ├── NameTaken           125
    │   ├── InUse                 1
    │   └── PortTaken           125   a host port that somebody holds
    ├── InvalidArgument         125   the caller's input is wrong
    ├── Unauthorized              1   a registry refused us
    │   └── Locked                1   the credentials are encrypted, and nobody has said the passphrase
    ├── Unavailable               1   a registry, the network or the launcher cannot be reached
    │   └── RateLimited           1   a registry wants us to wait; ``why`` says how long
    ├── Corrupt                   1   a digest, a size or an archive that does not match
    ├── NoPrivilege             125   the process may not do that
    ├── Unsupported             125   the kernel or the host lacks a feature
    ├── NoSpace                   1   disk full
    ├── Timeout                   1
    └── StartFailed             125   a container could not be started
        ├── CommandNotFound     127   no such file in the image
        └── CommandNotExecutable 126  it is there but cannot be run

Every error answers three questions in words a newcomer understands: ``what`` happened, ``why``, and how to
``fix`` it. ``object_id`` and ``step`` say where; ``__cause__`` keeps the exception below; ``cleanup`` lists what
could not be undone afterwards. Exit codes are those of ``docker run`` (125 the engine failed, 126 and 127 the
command could not be run).
"""

from __future__ import annotations


class WharfError(Exception):
    """Base of all errors that the engine raises on purpose; anything else is a bug."""

    exit_code = 1

    def __init__(
        self,
        what: str,
        why: str = "",
        fix: str = "",
        *,
        object_id: str = "",
        step: str = "",
        cleanup: tuple[str, ...] = (),
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix
        self.object_id = object_id
        self.step = step
        self.cleanup = cleanup

    def __str__(self) -> str:
        text = self.what
        if self.why:
            text += f": {self.why}"
        if self.fix:
            text += f". {self.fix}"
        return text

    def to_dict(self) -> dict[str, object]:
        """The error as plain data, to cross a process border (see :func:`from_dict`)."""
        return {
            "kind": type(self).__name__,
            "what": self.what,
            "why": self.why,
            "fix": self.fix,
            "object_id": self.object_id,
            "step": self.step,
            "cleanup": list(self.cleanup),
        }


class NotFound(WharfError):
    """The named object does not exist."""


class NoPlatform(NotFound):
    """The image is there, but not for the platform that was asked for."""


class Conflict(WharfError):
    """The object's state, or another object, is in the way."""


class NameTaken(Conflict):
    """Another object has that name."""

    exit_code = 125


class InUse(Conflict):
    """Others still use the object; ``why`` lists them."""


class PortTaken(Conflict):
    """A host port is held by another container or process; ``why`` says by which."""

    exit_code = 125


class InvalidArgument(WharfError):
    """The caller's input is wrong; ``why`` names the rule."""

    exit_code = 125


class Unauthorized(WharfError):
    """A registry asks for credentials or refuses ours."""


class Locked(Unauthorized):
    """The stored credentials are encrypted and no passphrase is known (see :meth:`Engine.unlock_credentials`)."""


class Unavailable(WharfError):
    """Something that should answer does not: a registry, a host, the launcher."""


class RateLimited(Unavailable):
    """A registry answers no more for a while; ``why`` has its limit and the time to wait."""


class Corrupt(WharfError):
    """Content that does not match its digest, size or format."""


class NoPrivilege(WharfError):
    """The process lacks the right to do that."""

    exit_code = 125


class Unsupported(WharfError):
    """The kernel or the host lacks the feature; ``why`` names it."""

    exit_code = 125


class NoSpace(WharfError):
    """The disk is full."""


class Timeout(WharfError):
    """It took longer than allowed; ``why`` names the culprit."""


class StartFailed(WharfError):
    """The container could not be brought to its first instruction; ``step`` says where it failed."""

    exit_code = 125


class CommandNotFound(StartFailed):
    """The command does not exist in the container (exit code 127)."""

    exit_code = 127


class CommandNotExecutable(StartFailed):
    """The command exists but the kernel will not run it (exit code 126)."""

    exit_code = 126


def _tree(base: type[WharfError]) -> dict[str, type[WharfError]]:
    found = {base.__name__: base}
    for child in base.__subclasses__():
        found.update(_tree(child))
    return found


def from_dict(data: dict[str, object]) -> WharfError:
    """Rebuild an error that :meth:`WharfError.to_dict` wrote; an unknown kind becomes :class:`WharfError`."""
    kind = _tree(WharfError).get(str(data.get("kind")), WharfError)
    cleanup = data.get("cleanup")
    return kind(
        str(data.get("what", "unknown error")),
        str(data.get("why", "")),
        str(data.get("fix", "")),
        object_id=str(data.get("object_id", "")),
        step=str(data.get("step", "")),
        cleanup=tuple(str(c) for c in cleanup) if isinstance(cleanup, list) else (),
    )
