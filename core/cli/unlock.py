"""Asking for the passphrase of the stored credentials."""

from __future__ import annotations

import asyncio
import getpass
import sys
from typing import TYPE_CHECKING

from core.errors import InvalidArgument, Locked

if TYPE_CHECKING:
    from core.engine import Engine


async def unlock(engine: Engine, error: Locked) -> None:
    """Ask on the terminal, twice where it is a new one.

    :raises Locked: there is nobody to ask
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise error
    word = await asyncio.to_thread(getpass.getpass, "Passphrase of the stored credentials: ")
    if error.step == "new" and word != await asyncio.to_thread(getpass.getpass, "The same again: "):
        raise InvalidArgument("the passphrases differ", "one of them has a slip", "Try again")
    await engine.unlock_credentials(word)
