"""The life of a service process, from its start to its exit code.

`run_service` reads settings, sets up logging and telemetry, and awaits the service's `main`
with an event that asks it to stop. SIGTERM, SIGINT and, if requested, the death of the parent set
the event. The service then has DRAIN_S seconds to finish its work, after which it is cancelled.
CANCEL_S seconds later the process exits even if something still runs. A hard end costs only time,
because a service can lose everything it holds at any moment anyway (kill -9).

Exit codes are those of `services.shared.model.ExitCode`; a stop after draining is 0.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, overload

from services.shared.model import ExitCode, PgmigError
from services.shared.runtime import parent
from services.shared.runtime.arguments import answered
from services.shared.runtime.assignments import cause
from services.shared.runtime.config import ServiceSettings, load_settings
from services.shared.runtime.diagnostics import report
from services.shared.runtime.files import private_umask
from services.shared.runtime.log import setup_logging
from services.shared.runtime.telemetry import setup_telemetry

log = logging.getLogger(__name__)

DRAIN_S = 10.0
CANCEL_S = 3.0

S = TypeVar("S", bound=ServiceSettings)


@overload
def run_service(
    name: str,
    main: Callable[[ServiceSettings, asyncio.Event], Awaitable[None]],
    *,
    arguments: Sequence[str] = (),
) -> int: ...
@overload
def run_service(
    name: str,
    main: Callable[[S, asyncio.Event], Awaitable[None]],
    settings_type: type[S],
    *,
    arguments: Sequence[str] = (),
) -> int: ...
def run_service(
    name: str,
    main: Callable[[Any, asyncio.Event], Awaitable[None]],
    settings_type: type[ServiceSettings] = ServiceSettings,
    *,
    arguments: Sequence[str] = (),
) -> int:
    """Run `main(settings, stop)` as the service `name`, and return the process's exit code.

    arguments: the command line, which may ask for help instead.

    `main` must return soon after `stop` is set. A PgmigError is reported as one line on stderr, an
    unexpected error with a traceback.
    """
    if (code := answered(name, settings_type, arguments)) is not None:
        return int(code)
    private_umask()
    try:
        settings = load_settings(name, settings_type)
        setup_logging(name, settings)
        shutdown_telemetry = setup_telemetry(name)
    except PgmigError as exc:
        report(f"pgmig-{name}: {explain(exc)}")
        return int(exc.exit_code)
    calm_collector()
    try:
        return int(asyncio.run(_serve(main, settings)))
    finally:
        shutdown_telemetry()


def explain(exc: PgmigError) -> str:
    """The error and its hint on one line."""
    text = f"{exc} ({exc.hint})" if exc.hint else str(exc)
    return " ".join(text.split())


def calm_collector() -> None:
    """Make the cyclic garbage collector run less often. Pending changes are many small tuples without
    cycles; scanning them again and again took two fifths of the applier's time."""
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)


async def _serve(main: Callable[[S, asyncio.Event], Awaitable[None]], settings: S) -> ExitCode:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    task = asyncio.ensure_future(main(settings, stop))
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        await asyncio.wait({task}, timeout=DRAIN_S)
    if not task.done():
        log.warning("not drained after %.0f s: cancelling", DRAIN_S)
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_S)
    stopping.cancel()
    if not task.done():
        log.error("not ended %.0f s after it was cancelled: leaving", CANCEL_S)
        os._exit(ExitCode.INTERNAL)
    return _outcome(task)


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def asked(why: str) -> None:
        if not stop.is_set():
            log.info("stopping: %s", why)
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number.name)
    if parent.wanted():
        parent.ask_for_death_signal()
        parent.watch_stdin(lambda: asked("the parent process has gone"))


def _outcome(task: asyncio.Future[None]) -> ExitCode:
    if task.cancelled():
        return ExitCode.OK
    exc = task.exception()
    if exc is None:
        return ExitCode.OK
    if (ours := cause(exc)) is not None:
        log.error("%s", explain(ours))
        return ours.exit_code
    log.error("unexpected %s", type(exc).__name__, exc_info=exc)
    return ExitCode.INTERNAL
