"""Rules for ``mounts`` (config.md, "Mounts" and "Linux mount options")."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from core.runtime import mountopts
from core.runtime.check_ids import check_mappings
from core.runtime.schema import Findings

_IDMAP = ("idmap", "ridmap")


def check(config: dict[str, Any], bundle: Path | None, found: Findings) -> None:
    """Add to ``found`` what is wrong; make paths absolute in place."""
    kinds = {entry["type"] for entry in config["linux"].get("namespaces", [])}
    for index, mount in enumerate(config.get("mounts", [])):
        path = f"mounts[{index}]"
        destination = mount["destination"]
        if not destination.startswith("/"):
            found.doubt(f"{path}.destination", destination, "relative ones are deprecated; it is taken from /")
        # By one name only: what is special about /proc is so about /proc/ and /x/../proc too (CVE-2023-27561).
        mount["destination"] = "/" + os.path.normpath(f"/{destination}").lstrip("/")
        options = mount.setdefault("options", [])
        if mount.get("type") == "bind" and not {"bind", "rbind"} & set(options):
            found.doubt(f"{path}.type", "bind", "the option is what makes a bind mount; it is added")
            options.append("bind")
        _check_idmap(mount, path, "user" in kinds, found)
        if "bind" in options or "rbind" in options:
            _check_bind(mount, path, bundle, found)
        elif "type" not in mount and "remount" not in options:
            rule = "a mount that is no bind mount needs the type of its file system"
            found.missing(f"{path}.type", rule, "Add one like tmpfs, or bind among the options")


def _check_bind(mount: dict[str, Any], path: str, bundle: Path | None, found: Findings) -> None:
    mount["type"] = "bind"  # whatever it was, it is a dummy (config.md, "POSIX-platform Mounts")
    if "source" not in mount and "remount" not in mount["options"]:
        found.missing(f"{path}.source", "a bind mount needs one", "Name the file or folder of the host")
    elif bundle is not None and "source" in mount:
        mount["source"] = os.path.join(os.path.abspath(bundle), mount["source"])
    # Options of a file system change nothing there. Newer runcs refuse them, older ones and the validation suite do not
    kept = [option for option in mount["options"] if not mountopts.parse([option]).data]
    for index, option in enumerate(mount["options"]):
        if option not in kept:
            found.doubt(f"{path}.options[{index}]", option, "no option for a bind mount; left out")
    mount["options"] = kept


def _check_idmap(mount: dict[str, Any], path: str, user_namespace: bool, found: Findings) -> None:
    options = mount.get("options", [])
    wanted = [option for option in options if option in _IDMAP]
    given = [name for name in ("uidMappings", "gidMappings") if mount.get(name)]
    if len(given) == 1:
        other = "gidMappings" if given == ["uidMappings"] else "uidMappings"
        found.missing(f"{path}.{other}", f"{given[0]} are there, and only both make sense", "Add them")
    if wanted and not given and not user_namespace:
        at = options.index(wanted[0])
        rule = "there are neither mappings nor a user namespace whose mappings it could take"
        found.bad(f"{path}.options[{at}]", wanted[0], rule, "Add uidMappings and gidMappings")
    if given and not wanted:
        found.doubt(f"{path}.{given[0]}", mount[given[0]], "idmap is not among the options; other runtimes ignore this")
    if (given or wanted) and not {"bind", "rbind"} & set(options):
        rule = "only bind mounts can have their ids mapped"
        place, value = (f"{path}.{given[0]}", mount[given[0]]) if given else (f"{path}.options", options)
        found.bad(place, value, rule, "Leave the mapping out")
    for name in given:
        check_mappings(mount[name], f"{path}.{name}", found)
