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


_RUN, _STATE, _LOOK, _IMAGES, _REST = "Run", "Change state", "Look", "Images", "The rest"
_NETWORKS = "Networks"
_REGISTRIES = "Registries"

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
    "diff": Verb(_LOOK, "Show which files a container has changed", "diff"),
    "images": Verb(_IMAGES, "List images", "images"),
    "pull": Verb(_IMAGES, "Fetch images from a registry", "pull"),
    "push": Verb(_REGISTRIES, "Send an image to a registry", "push"),
    "search": Verb(_REGISTRIES, "Find images in a registry by a word", "search"),
    "registry ls": Verb(_REGISTRIES, "List the repositories of a registry", "registry"),
    "registry tags": Verb(_REGISTRIES, "List the tags of a repository", "registry"),
    "registry referrers": Verb(_REGISTRIES, "List signatures and the like of an image", "registry"),
    "image check": Verb(_REGISTRIES, "Ask registries whether they have something newer", "image_check"),
    "login": Verb(_REGISTRIES, "Log in to a registry", "login"),
    "logout": Verb(_REGISTRIES, "Forget the credentials for a registry", "login"),
    "load": Verb(_IMAGES, "Load images from a `docker save` or OCI archive", "load"),
    "save": Verb(_IMAGES, "Write images into an archive", "save"),
    "import": Verb(_IMAGES, "Make an image from a tar of a file system", "export"),
    "export": Verb(_IMAGES, "Write a container's files as a tar", "export"),
    "commit": Verb(_IMAGES, "Make an image of what a container has become", "commit"),
    "tag": Verb(_IMAGES, "Give an image one more name", "tag"),
    "untag": Verb(_IMAGES, "Take a name from an image, or several; it stays", "tag"),
    "history": Verb(_IMAGES, "Show how an image was made, step by step", "history"),
    "rmi": Verb(_IMAGES, "Remove images", "rmi"),
    "image prune": Verb(_IMAGES, "Remove images that nobody needs, by age, label or last use", "prune"),
    "image layers": Verb(_IMAGES, "Show what each layer of an image adds, changes, removes and wastes", "layers"),
    "image files": Verb(_IMAGES, "List the files of an image, or what one of its layers changes", "layers"),
    "image find": Verb(_IMAGES, "Search all layers of all images for a path", "layers"),
    "port": Verb(_NETWORKS, "List a container's published ports", "port"),
    "port add": Verb(_NETWORKS, "Publish more ports of a container, also while it runs", "port"),
    "port rm": Verb(_NETWORKS, "Close published ports of a container, also while it runs", "port"),
    "network ls": Verb(_NETWORKS, "List networks", "network"),
    "network create": Verb(_NETWORKS, "Make a network", "network_create"),
    "network connect": Verb(_NETWORKS, "Put a container on one more network", "network_connect"),
    "network disconnect": Verb(_NETWORKS, "Take a container from a network", "network_connect"),
    "network reach": Verb(_NETWORKS, "Show who can reach published ports, and by which rule", "network_reach"),
    "network rm": Verb(_NETWORKS, "Remove networks", "network"),
    "network map": Verb(_NETWORKS, "Draw networks, who is on them, and the ports that lead there", "network_map"),
    "network check": Verb(_NETWORKS, "Find the link that is broken, between a container and outside", "network_check"),
    "network connections": Verb(_NETWORKS, "Show what containers are connected to, and how much passes", "connections"),
    "network stats": Verb(_NETWORKS, "Show what passes each interface of containers, live", "network_stats"),
    "network prune": Verb(_NETWORKS, "Remove the networks that no container is to be on", "network"),
    "info": Verb(_REST, "Show the host and what the engine holds", "info"),
    "version": Verb(_REST, "Show versions", "info"),
    "fsck": Verb(_REST, "Verify everything in the image store, and mend it", "fsck"),
    "system df": Verb(_REST, "Show what is on the disk, and for whom", "system_df"),
    "doctor": Verb(_REST, "Check what this host offers, what is missing, and how to mend it", "doctor"),
    "demo": Verb(_REST, "Start a handful of containers to look at; needs no network", "demo"),
}

# docker's longer forms of the same verbs
LONG_FORMS: dict[str, dict[str, str]] = {
    "container": {"ls": "ps", "list": "ps", "ps": "ps"},
    "image": {"ls": "images", "list": "images", "rm": "rmi", "remove": "rmi"}
    | {word: f"image {word}" for word in ("layers", "files", "find", "prune", "check")},
    "registry": {
        "ls": "registry ls",
        "list": "registry ls",
        "tags": "registry tags",
        "referrers": "registry referrers",
        "login": "login",
        "logout": "logout",
    },
    "checkpoint": {
        "create": "checkpoint create",
        "ls": "checkpoint ls",
        "list": "checkpoint ls",
        "rm": "checkpoint rm",
        "remove": "checkpoint rm",
    },
    "network": {"list": "network ls", "remove": "network rm", "inspect": "inspect", "conn": "network connections"}
    | {
        word: f"network {word}"
        for word in "ls create connect disconnect reach rm map check connections stats prune".split()
    },
    "system": {"info": "info", "events": "events", "df": "system df", "fsck": "fsck"},
}
_SHARED = {
    "container": "run create exec attach start stop restart kill pause unpause update restore rm logs stats inspect "
    "wait commit diff export port",
    "image": "pull push load inspect save import tag untag history",
}


def find_verb(words: list[str]) -> tuple[str, list[str]] | None:
    """The verb that ``words`` begin with, and what follows it; None where there is none."""
    first, second = words[0], words[1] if len(words) > 1 else ""
    if first in VERBS and f"{first} {second}" in VERBS:
        return f"{first} {second}", words[2:]
    if first in LONG_FORMS:
        verb = LONG_FORMS[first].get(second) or (second if second in _SHARED.get(first, "").split() else "")
        kind = ["--type", first] if verb == "inspect" else []  # nothing else that has the name
        return (verb, [*kind, *words[2:]]) if verb else None
    return (first, words[1:]) if first in VERBS else None


def names_of(group: str) -> list[str]:
    """The words that may follow ``group``, such as ``image``."""
    return [*LONG_FORMS[group], *_SHARED.get(group, "").split()]


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
  -D, --debug     show where an unexpected error comes from
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


def group_overview(first: str) -> str:
    """``wharf image --help``: what there is of that kind; where docker has two words for one thing, one of them."""
    names: dict[str, str] = {}
    for name, verb in LONG_FORMS[first].items():
        if verb not in names.values():
            names[verb.removeprefix(f"{first} ") if verb.startswith(f"{first} ") else name] = verb
    names |= {name: name for name in _SHARED.get(first, "").split() if name not in names}
    width = max(map(len, names)) + 2
    lines = [f"usage: wharf {first} VERB ...", ""]
    lines += [f"  {name:<{width}}{VERBS[verb].summary}" for name, verb in names.items()]
    return "\n".join([*lines, "", f"`wharf {first} VERB --help` has the options, with examples."])
