"""Containers of an ordinary user: the whole engine is root in a user namespace of its own (user_namespaces(7)).

Before it does anything else, the engine's process moves into the user and mount namespace that all wharf processes of
that user share (:mod:`core.rootless.namespace`); from there on it may mount overlays, make network and pid namespaces,
and own files of many users, and it is an ordinary user all the same to everything outside. Launcher, monitors and
containers inherit the namespace. No process is kept for it: it lives as long as an engine, a launcher or a container
does, and whoever comes next finds it by them, or makes a new one with the same maps, so that the files fit.

With ``newuidmap``, ``newgidmap`` and a range in /etc/subuid and /etc/subgid the users of an image are users
(:mod:`core.rootless.ids`); without, every file belongs to root, who is the user.

With pasta or slirp4netns there is a network for the containers (:mod:`core.rootless.network`), beside the host's.

What an ordinary user cannot have, whatever is installed: device files, limits without a delegated cgroup, bridges in
the host's network, settings of the host's kernel, priorities above the user's own.
"""

from __future__ import annotations

from core.rootless.ids import Ids, plan
from core.rootless.namespace import enter

__all__ = ["Ids", "enter", "plan"]
