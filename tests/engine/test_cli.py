"""``wharf`` as a user runs it: a process of its own, with real containers.

The test's own engine is open on the same instance, so each command is waited for without holding up its event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.engine import Engine
from tests.patience import patience
from tests.ports import free_port

pytestmark = pytest.mark.real
HOUSE = Path(__file__).parents[2]
TICKER = 'i=0; trap "exit 0" TERM; while :; do i=$((i+1)); echo line $i; echo err $i >&2; sleep 0.05; done'


@dataclass
class Done:
    code: int
    out: str
    err: str


class Wharf:
    """The command, in the instance of this test."""

    def __init__(self, env: dict[str, str], image: str) -> None:
        self.env = env
        self.image = image

    async def start(self, *words: str, stdin: int | None = None) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tui", *words),
            cwd=HOUSE,
            env=self.env,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *words: str, given: bytes | None = None, seconds: float = 60) -> Done:
        process = await self.start(*words, stdin=None if given is None else asyncio.subprocess.PIPE)
        out, err = await asyncio.wait_for(process.communicate(given), patience(seconds))
        return Done(process.returncode or 0, out.decode(), err.decode())

    async def ok(self, *words: str, given: bytes | None = None) -> str:
        done = await self(*words, given=given)
        assert (done.code, done.err) == (0, ""), done
        return done.out

    async def background(self, name: str, *options: str, script: str = TICKER) -> str:
        return (await self.ok("run", "-d", "--name", name, *options, self.image, "sh", "-c", script)).strip()


@pytest.fixture
def wharf(instance_env: dict[str, str], busybox_image: str) -> Wharf:
    return Wharf(instance_env, busybox_image)


async def test_run_gives_output_and_exit_code(wharf: Wharf) -> None:
    done = await wharf("run", "--rm", wharf.image, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert done == Done(7, "out\n", "err\n")
    assert await wharf.ok("ps", "-aq") == ""


async def test_run_without_newline_and_with_any_bytes(wharf: Wharf) -> None:
    process = await wharf.start("run", "--name", "x", wharf.image, "sh", "-c", r"printf '\377\000 no newline'")
    out, _ = await process.communicate()
    assert out == b"\xff\x00 no newline"
    logs = await wharf.start("logs", "x")
    assert (await logs.communicate())[0] == out


async def test_run_feeds_stdin(wharf: Wharf) -> None:
    data = os.urandom(300_000)
    process = await wharf.start("run", "--rm", "-i", wharf.image, "cat", stdin=asyncio.subprocess.PIPE)
    out, err = await asyncio.wait_for(process.communicate(data), patience(60))
    assert (process.returncode, out == data, err) == (0, True, b"")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nosuch"], 127, "nosuch"),
        (["/etc/passwd"], 126, "permission denied"),
        (["/"], 126, ""),
    ],
)
async def test_commands_that_cannot_run(wharf: Wharf, words: list[str], code: int, says: str) -> None:
    done = await wharf("run", "--name", "gone", wharf.image, *words)
    assert done.code == code
    assert done.out == ""
    assert done.err.startswith("wharf: ")
    assert done.err.count("\n") == 1
    assert says in done.err
    assert await wharf.ok("ps", "-aq") == ""  # its name is free again


async def test_bad_input_leaves_nothing(wharf: Wharf) -> None:
    port = free_port()
    await wharf.background("taken", "-p", f"127.0.0.1:{port}:80")
    for words, code, says in (
        (["--name", "taken", wharf.image], 125, "'taken' is taken"),
        (["-p", f"127.0.0.1:{port}:80", wharf.image], 125, f"{port}/tcp is taken"),
        (["--pull", "never", "no/such:image"], 125, "no/such"),
        (["--network", "nowhere", wharf.image], 125, "nowhere"),
        (["-m", "1k", wharf.image], 125, "6m"),
        (["--mount", "type=bind,src=/no/such/folder,dst=/x", wharf.image], 125, "/no/such/folder"),
        (["--user", "nobody-here", wharf.image, "true"], 125, "nobody-here"),
    ):
        done = await wharf("run", *words)
        assert (done.code, done.out) == (code, ""), done
        assert says in done.err
        assert done.err.count("\n") == 1, done.err
    assert (await wharf.ok("ps", "-a", "--format", "{{.Names}}")).split() == ["taken"]


async def test_the_life_of_a_container(wharf: Wharf) -> None:
    port = free_port()
    cid = await wharf.background("web", "-l", "app=x", "-p", f"127.0.0.1:{port}:80", "-m", "64m")
    assert len(cid) == 64
    table = (await wharf.ok("ps")).splitlines()
    assert table[0].split("  ")[0] == "CONTAINER ID"
    assert table[1].startswith(cid[:12])
    assert f"127.0.0.1:{port}->80/tcp" in table[1]
    assert json.loads(await wharf.ok("ps", "--format", "json"))["Names"] == "web"
    state = ("inspect", "-f", "{{.State.Status}}", "web")
    for words, expected in (
        (["pause", "web"], "paused"),
        (["unpause", "web"], "running"),
        (["stop", "-t", "5", "web"], "exited"),
        (["start", "web"], "running"),
        (["restart", "-t", "5", "web"], "running"),
        (["kill", "web"], "exited"),
    ):
        assert await wharf.ok(*words) == "web\n"
        assert await wharf.ok(*state) == f"{expected}\n"
    assert await wharf.ok("wait", "web") == "137\n"
    assert await wharf.ok("ps", "-q", "-f", "status=exited", "--no-trunc") == f"{cid}\n"
    assert (await wharf("exec", "web", "true")).code == 1
    assert await wharf.ok("rm", "web") == "web\n"
    assert (await wharf("rm", "web")).code == 1
    assert (await wharf("rm", "-f", "web")).code == 0


async def test_several_at_once_report_each(wharf: Wharf, engine: Engine) -> None:
    for name in ("a", "b", "c"):
        await wharf.background(name, script="sleep 100")
    done = await wharf("stop", "-t", "2", "a", "nosuch", "b", "c")
    ends = [(await engine.container(name)).finished for name in "abc"]
    assert max(ends) - min(ends) < 4  # one grace period, not three: then the last would come two later than the first
    assert (done.code, done.out) == (1, "a\nb\nc\n")
    assert "nosuch" in done.err
    assert (await wharf("rm", "a", "b", "c")).out == "a\nb\nc\n"


async def test_exec(wharf: Wharf) -> None:
    await wharf.background("box")
    done = await wharf("exec", "-e", "A=1", "-w", "/tmp", "box", "sh", "-c", "echo $A $PWD; echo e >&2; exit 5")
    assert done == Done(5, "1 /tmp\n", "e\n")
    assert await wharf.ok("exec", "-i", "box", "cat", given=b"some\nbytes") == "some\nbytes"
    assert (await wharf("exec", "box", "nosuch")).code == 127
    assert (await wharf("exec", "box", "/etc/passwd")).code == 126
    assert await wharf.ok("exec", "-d", "box", "touch", "/tmp/made") == ""
    assert await wharf.ok("exec", "box", "sh", "-c", "while [ ! -e /tmp/made ]; do :; done; echo there") == "there\n"


async def test_logs(wharf: Wharf) -> None:
    await wharf.background(
        "box", script="i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo $i; done; echo no >&2; printf end"
    )
    assert await wharf.ok("wait", "box") == "0\n"
    done = await wharf("logs", "box")
    assert done == Done(0, "".join(f"{n}\n" for n in range(1, 31)) + "end", "no\n")
    assert (await wharf("logs", "-f", "box")).out == done.out
    assert (await wharf("logs", "-n", "1", "box")) in (Done(0, "end", ""), Done(0, "", "no\n"))
    stamped = (await wharf("logs", "-t", "box")).out.splitlines()
    assert all(line[10] == "T" and line[29] == "Z" for line in stamped)
    assert (await wharf("logs", "--since", "1h", "box")).out == done.out
    assert (await wharf("logs", "--until", "1h", "box")).out == ""
    assert (await wharf("logs", "nosuch")).code == 1


async def test_logs_follow_until_the_reader_goes(wharf: Wharf) -> None:
    await wharf.background("box")
    process = await wharf.start("logs", "-f", "-n", "0", "box")
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), patience(20))
    assert line.startswith(b"line ")
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert process.stderr is not None
    err = await asyncio.wait_for(process.stderr.read(), patience(20))
    assert b"Traceback" not in err
    assert b"wharf:" not in err
    assert await asyncio.wait_for(process.wait(), patience(20)) == 141


async def test_logs_of_both_streams_until_the_reader_goes(wharf: Wharf) -> None:
    """The broken pipe shows in a write while another is due: the later one must not break into the engine's end."""
    await wharf.background("box", script="while :; do echo out; echo err >&2; usleep 2000; done")
    for _ in range(3):
        process = await wharf.start("logs", "-f", "-n", "0", "box")
        assert process.stdout is not None
        assert process.stderr is not None
        assert await asyncio.wait_for(process.stdout.readline(), patience(20)) == b"out\n"
        process.stdout._transport.close()  # type: ignore[attr-defined]
        err = await asyncio.wait_for(process.stderr.read(), patience(20))
        assert set(err.split()) <= {b"err"}
        assert await asyncio.wait_for(process.wait(), patience(20)) == 141


async def test_ctrl_c_ends_quietly(wharf: Wharf) -> None:
    await wharf.background("box")
    for words in (["logs", "-f", "box"], ["events", "--since", "1m"], ["stats", "--format", "{{.Name}}"]):
        process = await wharf.start(*words)
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), patience(20))
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), patience(20))
        assert process.returncode == 130
        assert b"Traceback" not in err


async def test_signals_reach_the_container(wharf: Wharf) -> None:
    script = 'trap "echo hup" HUP; trap "echo int; exit 5" INT; echo ready; while :; do sleep 0.05; done'
    process = await wharf.start("run", "--rm", wharf.image, "sh", "-c", script)
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), patience(20)) == b"ready\n"
    process.send_signal(signal.SIGHUP)
    assert await asyncio.wait_for(process.stdout.readline(), patience(20)) == b"hup\n"
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.stdout.readline(), patience(20)) == b"int\n"
    assert await asyncio.wait_for(process.wait(), patience(20)) == 5


async def test_lists_and_the_rest(wharf: Wharf) -> None:
    await wharf.background("box", "-m", "64m")
    assert (await wharf.ok("images", "--format", "{{.Repository}}:{{.Tag}}")).strip() == wharf.image
    assert (await wharf.ok("images", "-q", wharf.image)).strip()
    assert (
        (await wharf.ok("inspect", "--type", "image", "-f", "{{index .RepoTags 0}}", wharf.image))
        .strip()
        .endswith(wharf.image)
    )
    assert {"bridge", "host", "none"} <= set((await wharf.ok("network", "ls", "--format", "{{.Name}}")).split())
    assert (await wharf.ok("info", "-f", "{{.ContainersRunning}}")) == "1\n"
    assert json.loads(await wharf.ok("version", "-f", "json"))["Client"]["Version"]
    stats = await wharf.ok("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}")
    assert stats.startswith("box ")
    assert "/ 64MiB" in stats
    events = await wharf.ok(
        "events", "--since", "1m", "--until", "0s", "-f", "container=box", "--format", "{{.Action}}"
    )
    assert events.split()[:2] == ["create", "start"]
    assert (await wharf("rmi", wharf.image)).code == 1
    assert "ok" in (await wharf("doctor")).out


async def test_load_from_stdin_and_rmi(wharf: Wharf, archive: Path) -> None:
    assert "Untagged" in await wharf.ok("rmi", wharf.image)
    assert await wharf.ok("images", "-q") == ""
    loaded = await wharf("load", "-q", given=archive.read_bytes())
    assert loaded.code == 0
    assert loaded.out.startswith("Loaded image: ")
    assert await wharf.ok("images", "-q")
    broken = await wharf("load", given=b"not an archive")
    assert (broken.code, broken.out, broken.err.count("wharf:")) == (1, "", 1)


async def test_create_start_attached_and_cidfile(wharf: Wharf, tmp_path: Path) -> None:
    file = tmp_path / "cid"
    cid = (
        await wharf.ok("create", "--cidfile", str(file), "-i", wharf.image, "sh", "-c", "read a; echo got $a; exit 4")
    ).strip()
    assert file.read_text() == cid
    assert await wharf("start", "-ai", cid[:6], given=b"it\n") == Done(4, "got it\n", "")
    assert (await wharf("create", "--cidfile", str(file), wharf.image)).code == 1


class Terminal:
    """``wharf`` on a terminal of its own."""

    def __init__(self, wharf: Wharf, *words: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(HOUSE)
            os.execve(sys.executable, [sys.executable, "-m", "tui", *words], wharf.env)
        self.resize(33, 101)
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.fd, text)

    async def until(self, text: bytes, seconds: float = 30.0, again: bytes = b"") -> None:
        """Read until ``text`` has come; what comes after it is kept for the next call.

        :param again: typed every half second, where what it asks for may take effect a little later
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + patience(seconds)
        while text not in self.seen:
            assert loop.time() < end, self.seen
            if again and not (await asyncio.to_thread(select.select, [self.fd], [], [], 0.5))[0]:
                self.type(again)
                continue
            with contextlib.suppress(OSError):
                self.seen += await asyncio.wait_for(asyncio.to_thread(os.read, self.fd, 65536), patience(seconds))
        self.seen = self.seen.partition(text)[2]

    async def end(self) -> int:
        def wait() -> int:
            with contextlib.suppress(OSError):
                while os.read(self.fd, 65536):
                    pass
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

        code = await asyncio.wait_for(asyncio.to_thread(wait), patience(30))
        os.close(self.fd)
        return code


async def test_a_terminal_with_resize_detach_and_attach(wharf: Wharf) -> None:
    shell = Terminal(wharf, "run", "-it", "--name", "sh", wharf.image, "sh")
    await shell.until(b"# ")
    shell.type(b"stty size\n")
    await shell.until(b"33 101")
    shell.resize(20, 60)
    await shell.until(b"20 60", again=b"stty size\n")
    shell.type(b"\x10\x11")
    assert await shell.end() == 0
    assert await wharf.ok("ps", "--format", "{{.Names}}") == "sh\n"

    again = Terminal(wharf, "attach", "sh")
    again.type(b"\necho a$((1+1))b\n")
    await again.until(b"a2b")
    again.type(b"exit 6\n")
    assert await again.end() == 6

    once = Terminal(wharf, "start", "-ai", "sh")
    await once.until(b"# ")
    os.kill(once.pid, signal.SIGTERM)  # leaves the terminal as it was; the container runs on
    assert await once.end() == 143
    assert await wharf.ok("ps", "--format", "{{.Names}}") == "sh\n"

    inner = Terminal(wharf, "exec", "-it", "sh", "sh")
    await inner.until(b"# ")
    inner.type(b"tty; exit 3\n")
    await inner.until(b"/dev/pts/")
    assert await inner.end() == 3
