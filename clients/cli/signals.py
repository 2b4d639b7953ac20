"""Running a command's coroutine so that signals end it cleanly.

SIGINT, SIGTERM and SIGHUP (the terminal was closed; not under nohup) cancel the coroutine, whose
`finally` and `async with` blocks clean everything up. A second signal cancels again, which makes a
stopping stack kill the remaining processes. The exit code is 128 plus the first signal's number: 130 for
Ctrl-C, 143 for SIGTERM.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from services.shared.runtime.telemetry import setup_telemetry

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):  # noqa: N818 - an event, not an error
    """A signal ended the command, after everything was cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def run(main: Coroutine[Any, Any, T]) -> T:
    """The result of `main`. Raises Interrupted if a signal ended it, and any exception that `main` raises.

    With OTEL_* variables set, its calls begin the traces that the services continue.
    """
    gc.freeze()
    gc.enable()
    shutdown_telemetry = setup_telemetry("cli")
    try:
        return asyncio.run(_interruptible(main))
    finally:
        shutdown_telemetry()


async def _interruptible(main: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    task = loop.create_task(main, name="command")
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, on_signal, number)
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            raise Interrupted(received[0]) from None
        raise
