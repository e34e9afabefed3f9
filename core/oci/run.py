"""``run``: create, start, and (in the foreground) stay until the end."""

from __future__ import annotations

from collections.abc import Callable

from core.oci import console, readiness
from core.oci.create import Created, Options, create, load_config, refuse_terminal
from core.oci.delete import delete
from core.oci.start import start
from core.oci.store import Store


def run(store: Store, cid: str, options: Options, *, detach: bool, keep: bool, warn: Callable[[object], None]) -> int:
    """:returns: the command's exit code, 0 for a detached one

    :param keep: do not delete it when it has ended
    :raises WharfError: nothing stays
    """
    config = load_config(options.bundle, warn)
    if detach:
        refuse_terminal(config, options.console)
    else:
        console.refuse_no_terminal(config, options.console)
    made = create(store, cid, config, options)
    ear = readiness.ear(store, cid)
    if detach:
        _start(store, made, ear, warn)
        if ear is not None:
            ear.listen(made.held, made.held.pid, warn)
        return 0
    with console.passing_signals(made.held.pid, made.master):
        _start(store, made, ear, warn)
        if ear is not None:
            ear.listen_aside(made.held, warn)
        try:
            return console.stay(made.held.pid, made.master)
        finally:
            if ear is not None:
                ear.close()
            if not keep:
                for error in delete(store, cid, force=True):
                    warn(error)


def _start(store: Store, made: Created, ear: readiness.Ear | None, warn: Callable[[object], None]) -> None:
    try:
        made.child.pass_gate()
        for error in start(store, made.held.id, ear):
            warn(error)
    except BaseException:
        delete(store, made.held.id, force=True)
        raise


def create_detached(store: Store, cid: str, options: Options, warn: Callable[[object], None]) -> None:
    """``create``: whoever wants the container to run calls ``start``. :raises WharfError: nothing stays"""
    config = load_config(options.bundle, warn)
    refuse_terminal(config, options.console)
    create(store, cid, config, options).child.pass_gate()
