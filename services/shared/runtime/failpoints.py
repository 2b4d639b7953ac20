"""Failpoints: places in the code where a test makes the process fail.

They are off unless a service was started with PGMIG_FAILPOINTS. Its value is a list of NAME=ACTION, separated
by commas:

kill    the process ends at once, as by SIGKILL
stop    the process stops, as by SIGSTOP, and continues after SIGCONT
pause   the task waits until it is cancelled
error   the task raises INTERNAL

ACTION@2 takes place when the point is reached for the second time. Each takes place once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from services.shared.model import ErrorKind, PgmigError

log = logging.getLogger(__name__)


class Action(StrEnum):
    KILL = "kill"
    STOP = "stop"
    PAUSE = "pause"
    ERROR = "error"


@dataclass(slots=True)
class _Armed:
    """passes: how often the point is still passed before the action takes place."""

    action: Action
    passes: int


_armed: dict[str, _Armed] = {}


def arm(text: str, known: Collection[str]) -> None:
    """Replace the armed failpoints by those in `text`. known: the names that the service has. Raises
    INVALID_ARGUMENT."""
    found = dict(_parsed(entry.strip(), known) for entry in text.split(",") if entry.strip())
    _armed.clear()
    _armed.update(found)
    if found:
        log.warning("failpoints are set, so this process will fail: %s", text)


def _parsed(entry: str, known: Collection[str]) -> tuple[str, _Armed]:
    name, _, what = entry.partition("=")
    action, at, number = what.partition("@")
    if name not in known:
        raise _refused(f"there is no failpoint {name}", f"those there are: {', '.join(sorted(known))}")
    if action not in list(Action) or (at and not (number.isascii() and number.isdigit() and int(number))):
        actions = ", ".join(Action)
        raise _refused(f"{entry} is not NAME=ACTION or NAME=ACTION@NUMBER", f"actions are: {actions}")
    return name, _Armed(Action(action), int(number) - 1 if at else 0)


def _refused(why: str, hint: str) -> PgmigError:
    return PgmigError(ErrorKind.INVALID_ARGUMENT, f"setting PGMIG_FAILPOINTS is not valid: {why}", hint)


async def reached(name: str) -> None:
    """The code has come to this failpoint. Raises INTERNAL, or does not return, if it is armed."""
    armed = _armed.get(name)
    if armed is None:
        return
    if armed.passes:
        armed.passes -= 1
        return
    del _armed[name]
    log.warning("failpoint %s: %s", name, armed.action)
    match armed.action:
        case Action.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Action.STOP:
            os.kill(os.getpid(), signal.SIGSTOP)
        case Action.PAUSE:
            await asyncio.Event().wait()
        case Action.ERROR:
            raise PgmigError(ErrorKind.INTERNAL, f"failpoint {name}")
