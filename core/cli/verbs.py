"""The verbs at a glance: group, summary, and the module that is imported only when the verb is used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """A line of ``wharf --help``."""

    group: str
    summary: str
    module: str  # below core.cli; it has COMMANDS, a dict with the verb in it
    stop_early: bool = False  # what follows the first plain word is a command for the container


_RUN, _STATE, _LOOK, _IMAGES, _REST = "Run", "Change state", "Look", "Images and networks", "The rest"

VERBS: dict[str, Verb] = {
    "run": Verb(_RUN, "Create and start a container from an image", "run", stop_early=True),
    "create": Verb(_RUN, "Create a container without starting it", "run", stop_early=True),
    "exec": Verb(_RUN, "Run a command in a running container", "exec", stop_early=True),
    "attach": Verb(_RUN, "Connect the terminal to a running container", "attach"),
    "start": Verb(_STATE, "Start stopped containers", "start"),
    "stop": Verb(_STATE, "Stop containers: their stop signal, then SIGKILL after a grace period", "lifecycle"),
    "restart": Verb(_STATE, "Stop containers and start them again", "lifecycle"),
    "kill": Verb(_STATE, "Send a signal to containers (SIGKILL by default)", "lifecycle"),
    "pause": Verb(_STATE, "Freeze all processes of containers", "lifecycle"),
    "unpause": Verb(_STATE, "Let paused containers go on", "lifecycle"),
    "update": Verb(_STATE, "Change the limits and the restart policy of containers", "update"),
    "checkpoint create": Verb(_STATE, "Save a running container's processes, to go on from there later", "checkpoint"),
    "checkpoint ls": Verb(_STATE, "List a container's checkpoints", "checkpoint"),
    "checkpoint rm": Verb(_STATE, "Delete checkpoints", "checkpoint"),
    "restore": Verb(_STATE, "Start a container from a checkpoint, of the store or of an archive", "checkpoint"),
    "rm": Verb(_STATE, "Remove containers", "rm"),
    "ps": Verb(_LOOK, "List containers", "ps"),
    "logs": Verb(_LOOK, "Show what a container wrote", "logs"),
    "stats": Verb(_LOOK, "Show CPU, memory and I/O of containers, live", "stats"),
    "inspect": Verb(_LOOK, "Show everything about containers, images or networks as JSON", "inspect"),
    "events": Verb(_LOOK, "Show what happens, as it happens", "events"),
    "wait": Verb(_LOOK, "Wait until containers end, and print their exit codes", "lifecycle"),
    "images": Verb(_IMAGES, "List images", "images"),
    "pull": Verb(_IMAGES, "Fetch images from a registry", "pull"),
    "load": Verb(_IMAGES, "Load images from a `docker save` or OCI archive", "load"),
    "rmi": Verb(_IMAGES, "Remove images", "rmi"),
    "network ls": Verb(_IMAGES, "List networks", "network"),
    "info": Verb(_REST, "Show the host and what the engine holds", "info"),
    "version": Verb(_REST, "Show versions", "info"),
    "doctor": Verb(_REST, "Check what this host offers, what is missing, and how to mend it", "doctor"),
    "demo": Verb(_REST, "Start a handful of containers to look at; needs no network", "demo"),
}

# docker's longer forms of the same verbs
LONG_FORMS: dict[str, dict[str, str]] = {
    "container": {"ls": "ps", "list": "ps", "ps": "ps"},
    "image": {"ls": "images", "list": "images", "rm": "rmi", "remove": "rmi"},
    "checkpoint": {
        "create": "checkpoint create",
        "ls": "checkpoint ls",
        "list": "checkpoint ls",
        "rm": "checkpoint rm",
        "remove": "checkpoint rm",
    },
    "network": {"ls": "network ls", "list": "network ls", "inspect": "inspect"},
    "system": {"info": "info", "events": "events"},
}
_SHARED = {
    "container": "run create exec attach start stop restart kill pause unpause update restore rm logs stats inspect "
    "wait",
    "image": "pull load inspect",
}


def find_verb(words: list[str]) -> tuple[str, list[str]] | None:
    """The verb that ``words`` begin with, and what follows it; None where there is none."""
    first, second = words[0], words[1] if len(words) > 1 else ""
    if first in LONG_FORMS:
        verb = LONG_FORMS[first].get(second) or (second if second in _SHARED.get(first, "").split() else "")
        return (verb, words[2:]) if verb else None
    return (first, words[1:]) if first in VERBS else None


HEAD = """\
wharf: containers on this host, without a daemon.

usage: wharf                         open the workstation (needs a terminal)
       wharf [OPTIONS] VERB ...      one thing at a time, for scripts
       wharf VERB --help             the options of a verb, with examples
"""

TAIL = """\
Options:
  --root DIR      data root (default: $WHARF_ROOT, else /var/lib/wharf)
  --run DIR       runtime folder (default: $WHARF_RUN, else /run/wharf)
  --debug         show where an unexpected error comes from
  -v, --version   print the version

First steps:
  wharf demo                                   see it work, with no registry at all
  wharf run --rm -it debian:12 bash            a shell in a fresh container
  wharf run -d --name web -p 8080:80 nginx     a web server in the background
  wharf logs -f web                            what it writes
  wharf doctor                                 what to do if something does not work
"""


def overview() -> str:
    """``wharf --help``."""
    lines = [HEAD]
    for group in dict.fromkeys(verb.group for verb in VERBS.values()):
        lines.append(f"{group}:")
        verbs = {name: verb for name, verb in VERBS.items() if verb.group == group}
        width = max(12, *(len(name) + 2 for name in verbs))
        lines += [f"  {name:<{width}}{verb.summary}" for name, verb in verbs.items()]
        lines.append("")
    return "\n".join([*lines, TAIL])
