"""The connection to NATS, and the translation of its errors to ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import nats
import nats.errors
from nats.aio.client import Client
from nats.js import errors as js_errors

from services.shared.model import ErrorKind, PgmigError

__all__ = ["Client", "bus", "connect_bus", "translated"]

CONNECT_TIMEOUT_S = 5


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise NATS errors and timeouts of the block as PgmigError(BROKER), which is retried.

    A cancellation during the block ends it too. nats-py loses a cancellation that arrives
    together with an answer (asyncio.wait_for until Python 3.12) or while it waits to flush.
    """
    task = asyncio.current_task()
    cancellations = task.cancelling() if task else 0
    try:
        yield
    except (TimeoutError, nats.errors.Error, js_errors.Error, OSError) as exc:
        reason = str(exc) or type(exc).__name__
        raise PgmigError(
            ErrorKind.BROKER, f"{doing}: {reason}", "check that nats-server runs with JetStream"
        ) from exc
    finally:
        if task and task.cancelling() > cancellations:
            raise asyncio.CancelledError


async def connect_bus(url: str, name: str) -> Client:
    """Connect to NATS, and reconnect without limit. `url` may contain a token, so it is never logged."""

    async def quiet(_exc: Exception) -> None:
        """Errors are raised where the operation is awaited."""

    with translated("connecting to NATS"):
        return await nats.connect(
            url,
            name=name,
            connect_timeout=CONNECT_TIMEOUT_S,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.5,
            allow_reconnect=True,
            error_cb=quiet,
            pending_size=64 * 1024 * 1024,
        )


@asynccontextmanager
async def bus(url: str, name: str) -> AsyncIterator[Client]:
    """`connect_bus` for a block."""
    client = await connect_bus(url, name)
    try:
        yield client
    finally:
        await client.close()
