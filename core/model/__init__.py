"""The engine's words: frozen dataclasses without I/O, shared by every face.

Each module is loaded when the first of its words is asked for: a frozen dataclass takes about a millisecond to make,
and a verb needs few of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.model.checkpoint import Checkpoint, CheckpointOptions
    from core.model.container import (
        Change,
        Container,
        ContainerSpec,
        DeviceLimit,
        DeviceMapping,
        EndpointInfo,
        EndpointSpec,
        ExecSpec,
        Healthcheck,
        LogOptions,
        Mount,
        PortMapping,
        Resources,
        RestartPolicy,
        State,
    )
    from core.model.event import Event, LogLine
    from core.model.host import Check, HostInfo
    from core.model.image import Image, ImageConfig
    from core.model.layers import FileChange, FoundFile, HistoryEntry, LayerFacts, TreeEntry
    from core.model.netlook import Connection, InterfaceSample, MapPlace, MapPort, NetStep, NetworkMap
    from core.model.network import Network, NetworkSpec, Reach, Subnet
    from core.model.pace import Pace, Speed
    from core.model.progress import LayerProgress, PullProgress, PushedLayer, PushProgress, Watcher
    from core.model.registry import FoundRepository, Login, Logout, Referrer, TagCheck
    from core.model.stats import HostSample, Sample
    from core.model.storage import (
        Checked,
        ContainerUse,
        Damage,
        DiskUsage,
        ImageFilter,
        ImageUse,
        Pruned,
        PruneRule,
        Remains,
        VolumeUse,
    )

__all__ = [
    "Change",
    "Check",
    "Checked",
    "Checkpoint",
    "CheckpointOptions",
    "Connection",
    "Container",
    "ContainerSpec",
    "ContainerUse",
    "Damage",
    "DeviceLimit",
    "DeviceMapping",
    "DiskUsage",
    "EndpointInfo",
    "EndpointSpec",
    "Event",
    "ExecSpec",
    "FileChange",
    "FoundFile",
    "FoundRepository",
    "Healthcheck",
    "HistoryEntry",
    "HostInfo",
    "HostSample",
    "Image",
    "ImageConfig",
    "ImageFilter",
    "ImageUse",
    "InterfaceSample",
    "LayerFacts",
    "LayerProgress",
    "LogLine",
    "LogOptions",
    "Login",
    "Logout",
    "MapPlace",
    "MapPort",
    "Mount",
    "NetStep",
    "Network",
    "NetworkMap",
    "NetworkSpec",
    "Pace",
    "PortMapping",
    "PruneRule",
    "Pruned",
    "PullProgress",
    "PushProgress",
    "PushedLayer",
    "Reach",
    "Referrer",
    "Remains",
    "Resources",
    "RestartPolicy",
    "Sample",
    "Speed",
    "State",
    "Subnet",
    "TagCheck",
    "TreeEntry",
    "VolumeUse",
    "Watcher",
]

_WORDS = {
    "checkpoint": "Checkpoint CheckpointOptions",
    "container": "Change Container ContainerSpec DeviceLimit DeviceMapping EndpointInfo EndpointSpec ExecSpec "
    "Healthcheck LogOptions Mount PortMapping Resources RestartPolicy State",
    "event": "Event LogLine",
    "host": "Check HostInfo",
    "image": "Image ImageConfig",
    "layers": "FileChange FoundFile HistoryEntry LayerFacts TreeEntry",
    "netlook": "Connection InterfaceSample MapPlace MapPort NetStep NetworkMap",
    "network": "Network NetworkSpec Reach Subnet",
    "pace": "Pace Speed",
    "progress": "LayerProgress PullProgress PushedLayer PushProgress Watcher",
    "registry": "FoundRepository Login Logout Referrer TagCheck",
    "stats": "HostSample Sample",
    "storage": "Checked ContainerUse Damage DiskUsage ImageFilter ImageUse Pruned PruneRule Remains VolumeUse",
}
_HOMES = {word: module for module, words in _WORDS.items() for word in words.split()}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(f"core.model.{_HOMES[name]}"), name)
