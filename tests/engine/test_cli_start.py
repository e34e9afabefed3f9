"""What every line costs before and after its verb: the modules that it loads, and its exit code where it fails."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tests.engine.test_cli import HOUSE, Wharf

pytestmark = pytest.mark.real


@pytest.fixture
def wharf(instance_env: dict[str, str], busybox_image: str) -> Wharf:
    return Wharf(instance_env, busybox_image)


# What starts a verb is mostly what it imports. The rooms are those that it has no business in; the numbers are of
# modules of ours, and of all.
_LOADS = {
    "ps -a": ("cgroups images logs net runtime oci rootless demo", 49, 220),
    "images": ("cgroups logs net runtime oci rootless demo", 70, 250),
    "logs box": ("cgroups images net runtime oci rootless demo", 54, 230),
}


@pytest.mark.parametrize("line", list(_LOADS))
async def test_a_verb_loads_what_it_needs(wharf: Wharf, line: str) -> None:
    await wharf.ok("create", "--name", "box", wharf.image, "true")
    foreign, ours, all_ = _LOADS[line]
    code = (
        f"import sys; from tui.__main__ import main; print(main({line.split()!r})); "
        "print(*(name for name, module in sys.modules.items() if module is not None))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), cwd=HOUSE, env=wharf.env, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    *_, code_line, names = out.decode().splitlines()
    loaded = names.split()
    assert code_line == "0"
    heavy = ["textual", "rich", "aiohttp", "pyroute2", "psutil", "http", "urllib.request", "email", "shutil"]
    heavy += [f"core.{room}" for room in foreign.split()] + ["core.model.registry", "core.model.stats"]
    assert not set(heavy) & set(loaded)
    assert sum(name.split(".")[0] == "core" for name in loaded) <= ours
    assert len(loaded) <= all_


# Those of the docker command (28.2.2; dockerd 20.10.24, whose words decide where a program cannot be started). IMAGE
# and what the test has made: `bad`, whose command is not there, `up`, `made`.
_CODES = {
    "run IMAGE nosuch": 127,
    "run -d IMAGE nosuch": 127,
    "run IMAGE /etc/passwd": 126,
    "run IMAGE false": 1,
    "run -u nobody-here IMAGE true": 125,
    "run --pull never no/such:image": 125,
    "run --name up IMAGE": 125,
    "run --bogus IMAGE": 125,
    "run": 1,
    "create --name up IMAGE": 1,
    "create --memory 1k IMAGE": 1,
    "create --memory junk IMAGE": 125,
    "create -p junk IMAGE": 125,
    "create --pull never no/such:image": 1,
    "create --bogus IMAGE": 125,
    "create": 1,
    "start bad": 1,
    "start -a bad": 1,
    "start bad made": 1,
    "start nosuch": 1,
    "start --bogus made": 125,
    "start": 1,
    "restart bad": 1,
    "exec up nosuch": 127,
    "exec up /etc/passwd": 126,
    "exec up false": 1,
    "exec -w /no/such/folder up true": 126,
    "exec nosuch true": 1,
    "exec made true": 1,
    "exec --bogus up true": 125,
    "exec --env-file /no/such/file up true": 1,
    "exec up": 1,
    "update --memory 1k up": 1,
    "update --memory junk up": 125,
    "kill -s JUNK up": 1,
    "stop -t junk up": 125,
    "rm up": 1,
    "ps --bogus": 125,
    "ps -f bogus=1": 1,
    "ps -n junk": 125,
    "inspect nosuch": 1,
    "nonsense": 1,
}


async def test_exit_codes_are_those_of_docker(wharf: Wharf) -> None:
    new = ("create", "--network", "none", "--name")
    await wharf.ok(*new, "bad", wharf.image, "nosuch")
    await wharf.ok(*new, "made", wharf.image, "true")
    await wharf.ok("run", "-d", "--network", "none", "--name", "up", wharf.image, "sleep", "100")
    found = {}
    for line in _CODES:
        found[line] = (await wharf(*line.replace("IMAGE", wharf.image).split())).code
    assert found == _CODES
    await wharf.ok("kill", "up")
