"""``wharf runtime`` of an ordinary user, who is nobody's root but that of a user namespace."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import pytest

from tests.imagemaker import busybox
from tests.oci import Config, make_rootfs
from tests.patience import patience
from tests.person import Person, single_person, why_not

REASON = why_not() or ("" if busybox() else "needs busybox-static from Debian")


@pytest.fixture(scope="module")
def person() -> Iterator[Person]:
    if REASON:
        pytest.skip(REASON)
    try:
        with single_person() as found:
            make_rootfs(found.home / "b/rootfs")
            for folder, folders, files in os.walk(found.home / "b"):
                for name in ("", *folders, *files):
                    os.lchown(os.path.join(folder, name), found.uid, found.gid)
            yield found
            found.end()
    except LookupError as error:
        pytest.skip(str(error))


def bundle(person: Person, *argv: str) -> Config:
    """Write the configuration that ``spec --rootless`` begins with, for another command."""
    path = person.home / "b/config.json"
    path.unlink(missing_ok=True)
    person.ok("runtime", "spec", "--rootless", "--bundle", "b")
    config: Config = json.loads(path.read_text())
    config["process"] |= {"terminal": False, "args": list(argv)}
    path.write_text(json.dumps(config))
    return config


def test_run_and_its_exit_code(person: Person) -> None:
    bundle(person, "sh", "-c", "id -u; cat /proc/self/uid_map; echo x >/dev/null && echo device; exit 7")
    done = person.wharf("runtime", "run", "--bundle", "b", "box")
    assert done.returncode == 7, done.stderr
    assert done.stdout.split() == ["0", "0", str(person.uid), "1", "device"]
    assert person.ok("runtime", "list", "-q") == ""


def test_a_container_in_the_background(person: Person) -> None:
    bundle(person, "sleep", "100")
    with person.popen(person.python, "-m", "tui", "runtime", "run", "--bundle", "b", "box") as process:
        end = time.monotonic() + patience(20)
        while '"running"' not in person.wharf("runtime", "state", "box").stdout:
            assert time.monotonic() < end, process.poll()
            time.sleep(0.1)
        assert person.ok("runtime", "exec", "box", "sh", "-c", "id -u; hostname").split() == ["0", "wharf"]
        pid = json.loads(person.ok("runtime", "state", "box"))["pid"]
        assert os.stat(f"/proc/{pid}").st_uid == person.uid
        person.ok("runtime", "kill", "box", "KILL")
        assert process.wait(patience(20)) == 137
    assert person.ok("runtime", "list", "-q") == ""


def test_what_an_ordinary_user_cannot_have_is_said(person: Person) -> None:
    config = bundle(person, "true")
    config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1}]
    (person.home / "b/config.json").write_text(json.dumps(config))
    done = person.wharf("runtime", "run", "--bundle", "b", "box")
    assert done.returncode == 1
    assert "cannot map uids 0 0 1" in done.stderr
    config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": person.uid, "size": 1}]
    config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "user"]
    del config["linux"]["uidMappings"], config["linux"]["gidMappings"]
    (person.home / "b/config.json").write_text(json.dumps(config))
    done = person.wharf("runtime", "run", "--bundle", "b", "box")
    assert done.returncode == 1
    assert "ermi" in done.stderr  # Operation not permitted
    assert person.ok("runtime", "list", "-q") == ""
