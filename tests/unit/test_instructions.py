"""Instructions of a Dockerfile, as ``--change`` takes them."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import InvalidArgument
from core.images import instructions

BASE: dict[str, Any] = {"Env": ["PATH=/bin", "HOME=/root"], "Cmd": ["old"], "WorkingDir": "/srv", "Labels": {"a": "1"}}
SECOND = 1_000_000_000


def applied(*changes: str, base: dict[str, Any] = BASE) -> dict[str, Any]:
    """What is different afterwards."""
    config = {key: type(value)(value) for key, value in base.items()}
    instructions.apply(config, changes)
    return {key: config.get(key) for key in config.keys() | base.keys() if config.get(key) != base.get(key)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ('CMD ["a", "b c"]', {"Cmd": ["a", "b c"]}),
        ("CMD a 'b c' $HOME", {"Cmd": ["/bin/sh", "-c", "a 'b c' $HOME"]}),
        ("CMD [not json", {"Cmd": ["/bin/sh", "-c", "[not json"]}),
        ('cmd ["x"]', {"Cmd": ["x"]}),
        ('ENTRYPOINT ["/init"]', {"Entrypoint": ["/init"], "Cmd": None}),
        ("ENTRYPOINT /init -v", {"Entrypoint": ["/bin/sh", "-c", "/init -v"], "Cmd": None}),
        ("ENV A=1 B='x y' C=\"$HOME/c\" D=a\\ b", {"Env": [*BASE["Env"], "A=1", "B=x y", "C=/root/c", "D=a b"]}),
        ("ENV PATH=$PATH:/x", {"Env": ["PATH=/bin:/x", "HOME=/root"]}),
        ("ENV OLD way of it", {"Env": [*BASE["Env"], "OLD=way of it"]}),
        ("ENV A=${NONE:-dflt} B=${HOME:+set} C=${NONE:+set} D='$HOME' E=\\$HOME", {
            "Env": [*BASE["Env"], "A=dflt", "B=set", "C=", "D=$HOME", "E=$HOME"]
        }),
        ("EXPOSE 80 443/tcp 53/UDP 8000-8002", {
            "ExposedPorts": {p: {} for p in ("80/tcp", "443/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp")}
        }),
        ('LABEL b="two words" c=3', {"Labels": {"a": "1", "b": "two words", "c": "3"}}),
        ("USER app:users", {"User": "app:users"}),
        ("WORKDIR sub/../dir", {"WorkingDir": "/srv/dir"}),
        ("WORKDIR /abs", {"WorkingDir": "/abs"}),
        ("WORKDIR //abs", {"WorkingDir": "/abs"}),
        ("VOLUME /a /b", {"Volumes": {"/a": {}, "/b": {}}}),
        ('VOLUME ["/a b"]', {"Volumes": {"/a b": {}}}),
        ("STOPSIGNAL SIGQUIT", {"StopSignal": "SIGQUIT"}),
        ("STOPSIGNAL 9", {"StopSignal": "9"}),
        ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
        ("HEALTHCHECK --interval=1m30s --retries=4 CMD curl -f x", {
            "Healthcheck": {"Test": ["CMD-SHELL", "curl -f x"], "Interval": 90 * SECOND, "Retries": 4}
        }),
        ('HEALTHCHECK --timeout=2s CMD ["true"]', {"Healthcheck": {"Test": ["CMD", "true"], "Timeout": 2 * SECOND}}),
        ("ONBUILD RUN make", {"OnBuild": ["RUN make"]}),
        ("# nothing\n\nUSER \\\n  app", {"User": "app"}),
    ],
)  # fmt: skip
def test_one_instruction(change: str, expected: dict[str, Any]) -> None:
    assert applied(change) == expected


def test_several_in_order() -> None:
    found = applied("ENV A=1", "ENV B=$A", 'ENTRYPOINT ["e"]\nCMD ["c"]')
    assert found == {"Env": [*BASE["Env"], "A=1", "B=1"], "Entrypoint": ["e"], "Cmd": ["c"]}


def test_the_shell_of_the_image_runs_commands() -> None:
    assert applied("CMD x", base={"Shell": ["/bin/ash", "-ec"]}) == {"Cmd": ["/bin/ash", "-ec", "x"]}


@pytest.mark.parametrize(
    "change",
    [
        "RUN make", "COPY a b", "FROM x", "", "ENV", "ENV A", "ENV =1", "ENV A=1 B", "ENV A='open", "ENV A=${B",
        "ENV A=${B?x}", "EXPOSE 0", "EXPOSE 70000", "EXPOSE 9-8", "EXPOSE http", "LABEL x", "STOPSIGNAL SIGNOPE",
        "STOPSIGNAL 99", "HEALTHCHECK CMD", "HEALTHCHECK sleep 1", "HEALTHCHECK --every=1s CMD true",
        "HEALTHCHECK --interval=soon CMD true", "HEALTHCHECK --retries=x CMD true", "ONBUILD ONBUILD RUN x",
        "HEALTHCHECK --retries=² CMD true", "ONBUILD FROM x", 'VOLUME [""]', "USER ''",
    ],
)  # fmt: skip
def test_refused(change: str) -> None:
    if not change:
        assert applied(change) == {}
        return
    with pytest.raises(InvalidArgument):
        applied(change)
