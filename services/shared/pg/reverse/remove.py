"""Remove what a pipeline created on both servers. Every step is idempotent."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection

from services.shared.model import IdentityBefore, PgmigError, PipelineId
from services.shared.pg.apply.fence import fence_applier
from services.shared.pg.bidirectional.deletions import idle_deletions, ignore_deletions
from services.shared.pg.bidirectional.sequences import restore_stride
from services.shared.pg.bookkeeping.schema import books_exist, drop_bookkeeping, has_rows
from services.shared.pg.freeze.closed_database import inside
from services.shared.pg.reverse.ends import Ends
from services.shared.pg.session.connection import connection
from services.shared.pg.teardown import RELEASE_WAIT_S, drop_origin, remove_from, remove_from_source

KEPT = ("applier", "guard", "stride")
"""Bookkeeping that outlives a pipeline that may be prepared again."""


@dataclass(frozen=True, slots=True)
class Removed:
    """removed: a line for each thing. left: the sides on which something may remain, and why."""

    removed: tuple[str, ...]
    left: tuple[tuple[str, PgmigError], ...] = ()


async def remove_reverse(
    publisher_uri: str,
    subscriber_uri: str,
    pipeline: PipelineId,
    *,
    altered: Sequence[IdentityBefore] = (),
) -> Removed:
    """Remove slot and publication from the publisher and restore its replica identities; remove progress and
    bookkeeping from the subscriber. If one side fails, the other is cleaned nevertheless. altered: as
    recorded.

    Stop decoder and applier first. An applier that has not stopped is terminated, and cannot begin again. The
    publisher goes first: without its slot, no decoder can send changes to a subscriber that has lost its
    progress.
    """

    async def publisher() -> list[str]:
        return await remove_from_source(publisher_uri, pipeline, altered=altered, side=pipeline.publisher)

    async def subscriber() -> list[str]:
        return await remove_from_subscriber(subscriber_uri, pipeline)

    removed: list[str] = []
    left: list[tuple[str, PgmigError]] = []
    sides: tuple[tuple[str, Callable[[], Awaitable[list[str]]]], ...] = (
        (pipeline.publisher, publisher),
        (pipeline.subscriber, subscriber),
    )
    for side, remove in sides:
        try:
            removed += await remove()
        except PgmigError as exc:
            left.append((side, exc))
    return Removed(tuple(removed), tuple(left))


async def remove_from_subscriber(
    uri: str, pipeline: PipelineId, *, database: str = "", door: str = ""
) -> list[str]:
    """Origin and bookkeeping. database, door: of a subscriber that a switchover has closed; it stays closed.
    Returns a line for each thing."""
    deadline = asyncio.get_running_loop().time() + RELEASE_WAIT_S
    async with inside(uri, database, door, deadline, pipeline.subscriber) as conn:
        if await books_exist(conn):
            await fence_applier(conn, pipeline, secrets.token_hex(8))
        await _alone_again(conn, pipeline)
        removed = await drop_origin(conn, pipeline)
        if await has_rows(conn, pipeline):
            removed.append(f"bookkeeping of pipeline {pipeline} on the {pipeline.subscriber}")
        await drop_bookkeeping(conn, pipeline)
    return removed


async def not_both(uri: str, pipeline: PipelineId) -> None:
    """Undo what the subscriber needs while both sides are written to. Raises TRANSIENT if others have locked
    a table or a sequence."""
    async with connection(uri, pipeline.subscriber) as conn:
        await _alone_again(conn, pipeline)


async def _alone_again(conn: AsyncConnection, pipeline: PipelineId) -> None:
    await ignore_deletions(conn, pipeline, time.monotonic() + RELEASE_WAIT_S)
    await restore_stride(conn, pipeline)


async def retire(
    ends: Ends,
    pipeline: PipelineId,
    *,
    epoch: str,
    inserts_only: bool = False,
    altered: Sequence[IdentityBefore] = (),
) -> None:
    """Remove what an idle pipeline has left, so that it can be prepared again. Its appliers are kept out
    first, by an `epoch` that none of them has, and stay kept out: that is not removed. Nor are triggers that
    record deletions, which do nothing any more, and the increments of sequences, because a table or a
    sequence in use would have to be waited for.

    Raises TRANSIENT or SLOT_ACTIVE if a worker of the pipeline does not stop.
    """
    if await books_exist(ends.subscriber):
        await fence_applier(ends.subscriber, pipeline, epoch)
    await remove_from(
        ends.publisher, pipeline, inserts_only=inserts_only, altered=altered, side=pipeline.publisher
    )
    await idle_deletions(ends.subscriber, pipeline)
    await drop_origin(ends.subscriber, pipeline)
    await drop_bookkeeping(ends.subscriber, pipeline, but=KEPT)
