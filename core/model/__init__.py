"""The engine's words: frozen dataclasses without I/O, shared by every face."""

from core.model.checkpoint import Checkpoint, CheckpointOptions
from core.model.container import (
    Change,
    Container,
    ContainerSpec,
    DeviceLimit,
    DeviceMapping,
    EndpointInfo,
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
from core.model.image import Image, ImageConfig, LayerProgress, PullProgress
from core.model.network import Network
from core.model.stats import HostSample, Sample

__all__ = [
    "Change",
    "Check",
    "Checkpoint",
    "CheckpointOptions",
    "Container",
    "ContainerSpec",
    "DeviceLimit",
    "DeviceMapping",
    "EndpointInfo",
    "Event",
    "ExecSpec",
    "Healthcheck",
    "HostInfo",
    "HostSample",
    "Image",
    "ImageConfig",
    "LayerProgress",
    "LogLine",
    "LogOptions",
    "Mount",
    "Network",
    "PortMapping",
    "PullProgress",
    "Resources",
    "RestartPolicy",
    "Sample",
    "State",
]
