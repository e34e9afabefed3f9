"""A database of an older version: brought up to date, with a copy of what it was beside it."""

from __future__ import annotations

import json
import sqlite3
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from core.errors import Unavailable
from core.store import schema
from core.store.db import Database
from tests.patience import patience

FIRST = "CREATE TABLE one (x TEXT NOT NULL)"
SECOND = "ALTER TABLE one ADD COLUMN y TEXT NOT NULL DEFAULT 'new'"


def test_an_older_one_is_brought_up_to_date_and_kept_beside(tmp_path: Path) -> None:
    done: Future[None] = Future()

    def work() -> None:
        try:
            _bring_up_to_date(tmp_path / "x.db")
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()  # it must not wait for ever for a lock of its own
    done.result(timeout=patience(60))
    copy = sqlite3.connect(tmp_path / "x.v1.bak")
    assert copy.execute("SELECT * FROM one").fetchall() == [("kept",)]
    assert copy.execute("PRAGMA user_version").fetchone() == (1,)
    copy.close()
    assert (tmp_path / "x.v1.bak").stat().st_mode & 0o777 == 0o600
    with pytest.raises(Unavailable, match="newer than this program"):
        Database(tmp_path / "x.db", (FIRST,), durable=True)


def _bring_up_to_date(path: Path) -> None:
    old = Database(path, (FIRST,), durable=True)
    with old.write() as con:
        con.execute("INSERT INTO one VALUES ('kept')")
    # Still open: what was written is in the WAL alone.
    new = Database(path, (FIRST, SECOND), durable=True)
    assert [tuple(row) for row in new.read("SELECT * FROM one")] == [("kept", "new")]
    new.close()
    old.close()


def _table(path: Path, migrations: tuple[str, ...], *rows: tuple[str, tuple[object, ...]]) -> None:
    """A database of the version that knew these migrations."""
    old = Database(path, migrations, durable=True)
    with old.write() as con:
        for text, values in rows:
            con.execute(text, values)
    old.close()


def test_containers_that_run_while_the_program_is_renewed_keep_their_place(tmp_path: Path) -> None:
    """The version before networks of one's own had a single one, and wrote its name or its id only."""
    end = {"network": "bridge", "ip": "10.7.0.2", "interface": "w_1"}
    states = {"on": [end], "none": [], "new": [end | {"network_id": "other"}]}
    _table(
        tmp_path / "wharf.db", schema.DISK[:3],
        ("INSERT INTO network VALUES ('n1', 'bridge', 'bridge', 0, '10.7.0.0/24', '10.7.0.1', 'b', 1500, 0, '{}')", ()),
        *(("INSERT INTO container VALUES (?, ?, 'i', 0, '{}', '{}', ?)", (name, name, json.dumps({"endpoints": ends})))
          for name, ends in states.items()),
    )  # fmt: skip
    row = "INSERT INTO endpoint VALUES ('c', 'n1', '10.7.0.2', 24, '10.7.0.1', '02:42:0a:07:00:02', 'w_1')"
    _table(tmp_path / "run.db", schema.RUN[:1], (row, ()))
    disk = Database(tmp_path / "wharf.db", schema.DISK, durable=True)
    found = {row["id"]: json.loads(row["state"])["endpoints"] for row in disk.read("SELECT id, state FROM container")}
    assert found == {"on": [end | {"network_id": "n1"}], "none": [], "new": states["new"]}
    disk.close()
    run = Database(tmp_path / "run.db", schema.RUN, durable=False)
    info = json.loads(run.read("SELECT info FROM endpoint")[0]["info"])
    assert (info["network"], info["network_id"], info["ip"]) == ("bridge", "n1", "10.7.0.2")
    run.close()
