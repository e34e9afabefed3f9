"""CRIU's wire format, its log, and what a checkpoint's own file may say."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from core import errors
from core.images import tarwrite
from core.supervise import criu
from core.supervise.outside import Given, Outside, mounts_of
from core.supervise.restoring import Saved

# Of images/rpc.proto (CRIU 4.2): the fields that are sent, as another implementation reads them.
_PROTO = """
syntax = "proto2";
message mount { required string key = 1; required string val = 2; }
message inherit { required string key = 1; required int32 fd = 2; }
message cgroup { optional string ctrl = 1; required string path = 2; }
message opts {
  required int32 images_dir_fd = 1; optional int32 pid = 2; optional bool leave_running = 3;
  optional bool ext_unix_sk = 4; optional bool tcp_established = 5; optional bool shell_job = 7;
  optional bool file_locks = 8;
  optional int32 log_level = 9; optional string log_file = 10; optional bool notify_scripts = 12;
  optional string root = 13; optional int32 work_dir_fd = 17; optional bool manage_cgroups = 24;
  repeated cgroup cg_root = 25; optional bool rst_sibling = 26; repeated inherit inherit_fd = 27;
  optional bool ext_sharing = 29; optional bool ext_masters = 30; optional int32 manage_cgroups_mode = 34;
  repeated string external = 37; optional uint32 empty_ns = 38; optional string freeze_cgroup = 44;
  optional bool orphan_pts_master = 50; optional int32 network_lock = 64;
}
message req { required int32 type = 1; optional opts opts = 2; optional bool notify_success = 3; }
"""


def decoded(tmp_path: Path, message: bytes) -> str:
    """The message as protoc reads it."""
    if shutil.which("protoc") is None:
        pytest.skip("needs protobuf-compiler from Debian")
    (tmp_path / "rpc.proto").write_text(_PROTO)
    done = subprocess.run(
        ["protoc", f"-I{tmp_path}", "--decode=req", "rpc.proto"], input=message, capture_output=True, check=True
    )
    return done.stdout.decode()


def test_requests_as_protoc_reads_them(tmp_path: Path) -> None:
    options = criu.Options(tcp_established=True, empty_net=True)
    dump = criu.dump_request(4711, 5, 6, options, ["mnt[/a]:m0", "net[7]:x"], "/f", leave_running=True, version=(4, 2))
    text = decoded(tmp_path, dump)
    for line in ("pid: 4711", "leave_running: true", 'external: "mnt[/a]:m0"', 'freeze_cgroup: "/f"', "type: 1"):
        assert line in text
    assert "tcp_established: true" in text
    assert f"empty_ns: {0x40000000}" in text
    assert "99" not in text, "fields that the schema does not have"
    request = criu.restore_request(4, 5, criu.Options(), "/root", ["mnt[m0]:/p"], [("pipe:[1]", 9)], {"cpu": "/g"})
    text = decoded(tmp_path, request)
    for line in ('root: "/root"', "rst_sibling: true", 'key: "pipe:[1]"', "fd: 9", 'ctrl: "cpu"', 'path: "/g"'):
        assert line in text
    assert text.startswith("type: 2")
    assert "network_lock" not in text
    assert decoded(tmp_path, criu.acknowledge(success=False)).split() == ["type:", "6", "notify_success:", "false"]


def test_connections_are_held_back_only_where_there_may_be_some() -> None:
    def lock(version: str, options: criu.Options) -> int | bytes | None:
        release = criu.parse_version(version)
        inner = criu.decode(criu.dump_request(1, 2, 3, options, [], "", leave_running=False, version=release))[2]
        assert isinstance(inner, bytes)
        return criu.decode(inner).get(64)

    assert lock("4.2", criu.Options()) == 3
    assert lock("3.17.1", criu.Options()) in (None, 2), "that one does not know how to skip it"
    assert lock("4.2", criu.Options(tcp_established=True)) in (None, 2)


def test_replies() -> None:
    step = criu.encode([(1, 6), (2, True), (5, [(1, "post-dump"), (2, 77)])])
    assert criu.parse_reply(step) == criu.Reply("post-dump", True, 77)
    assert criu.parse_reply(criu.encode([(1, 2), (2, True), (4, [(1, 5)])])) == criu.Reply("", True, 5)
    assert not criu.parse_reply(criu.encode([(1, 1), (2, False), (7, -52)])).success
    for broken in (b"\x0a", b"\xff" * 3, b"\x0b\x00", b"\x08"):
        with pytest.raises(ValueError, match="Protocol Buffers"):
            criu.parse_reply(broken)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31 - 1, 2**63, -1])
def test_numbers(number: int) -> None:
    assert criu.decode(criu.encode([(9, number)])) == {9: number % 2**64}


def test_errors_in_its_log_become_words() -> None:
    log = (
        b"(00.061617) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n"
        b"(00.184358) Warn  (compel/arch/x86/src/lib/infect.c:418): Will restore 1 with interrupted system call\n"
        b"(00.2) Error (criu/sk-inet.c:192): inet: Connected TCP socket, consider using --tcp-established option.\n"
        b"(00.3) Error (criu/cr-dump.c:2053): Dumping FAILED.\n"
    )
    error = criu.explain("cannot", log, errors.StartFailed)
    assert isinstance(error, errors.StartFailed)
    assert error.why == "criu: inet: Connected TCP socket, consider using --tcp-established option."
    assert "--tcp-established" in error.fix
    old = b"Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds\n"
    assert "criu 4.1" in criu.explain("cannot", old).fix
    inner = b"(00.1) pie: 65: Error (criu/pie/parasite-vdso.c:297): vdso: Can't find vDSO area in image\n"
    assert "Can't find vDSO" in criu.explain("cannot", inner).why
    hostile = b"(00.1) Error (criu/files-reg.c:1): Can't open file \x1b]0;x\x07\n"
    assert criu.explain("cannot", hostile).why == "criu: Can't open file ?]0;x?"
    assert "did not say why" in criu.explain("cannot", b"").why


def test_which_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "criu"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.delenv("WHARF_CRIU", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert criu.find() == str(program)
    monkeypatch.setenv("WHARF_CRIU", str(tmp_path / "other"))
    with pytest.raises(errors.Unsupported, match="other is not installed"):
        criu.find()
    assert criu.find(str(program)) == str(program)
    program.chmod(0o644)
    with pytest.raises(errors.Unsupported):
        criu.find(str(program))


def test_what_a_restore_needs_is_read_back() -> None:
    outside = Outside([Given("/a", "/b", "c")], {"file[1:2]": 0, "file[1:3]": -1}, 9)
    saved = Saved(criu.Options(file_locks=True), outside, input_ended=True)
    assert Saved.from_plain(saved.to_plain()) == saved
    good = saved.to_plain()
    for change in (
        {"mounts": [["a"]]},
        {"mounts": 3},
        {"files": {"x": 3}},
        {"files": {"x": "y"}},
        {"files": []},
        {"options": None},
        {"network": "x"},
    ):
        with pytest.raises(errors.Corrupt):
            Saved.from_plain({**good, **change})
    with pytest.raises(errors.Corrupt):
        Saved.from_plain([])


def test_mountinfo() -> None:
    table = {entry.point: entry for entry in mounts_of(os.getpid())}
    assert table["/proc"].kind == "proc"
    assert "rw" in table["/"].options or "ro" in table["/"].options


def test_a_layer_is_written_as_tar_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "upper"
    (folder / "d").mkdir(parents=True)
    (folder / "d/f").write_bytes(b"x" * 100_000)
    os.link(folder / "d/f", folder / "d/g")
    (folder / "l").symlink_to("../../etc")
    name = os.fsdecode(b"odd\xff\n")
    (folder / name).write_text("odd")
    os.utime(folder / "d/f", ns=(5, 1_700_000_000_123_456_789))
    os.chmod(folder / "d/f", 0o4751)
    out = io.BytesIO(b"".join(tarwrite.layer(folder)))
    with tarfile.open(fileobj=out) as archive:
        found = {one.name: one for one in archive}
        assert set(found) == {".", "d", "d/f", "d/g", "l", name}
        assert (found["d/f"].mode, found["d/f"].size) == (0o4751, 100_000)
        assert found["d/f"].pax_headers["mtime"] == "1700000000.123456789"
        assert (found["d/g"].type, found["d/g"].linkname) == (tarfile.LNKTYPE, "d/f")
        assert (found["l"].type, found["l"].linkname) == (tarfile.SYMTYPE, "../../etc")
