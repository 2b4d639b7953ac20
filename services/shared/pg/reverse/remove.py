"""Remove what a pipeline created on both servers. Every step is idempotent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from services.shared.model import IdentityBefore, PgmigError, PipelineId
from services.shared.pg.bookkeeping.schema import drop_bookkeeping, has_rows
from services.shared.pg.freeze.closed_database import inside
from services.shared.pg.teardown import RELEASE_WAIT_S, drop_origin, remove_from_source


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

    Stop decoder and applier first. The publisher goes first: without its slot, no decoder can send changes to
    a subscriber that has lost its progress.
    """

    async def publisher() -> list[str]:
        return await remove_from_source(publisher_uri, pipeline, altered=altered, side=pipeline.publisher)

    async def subscriber() -> list[str]:
        deadline = asyncio.get_running_loop().time() + RELEASE_WAIT_S
        async with inside(subscriber_uri, "", "", deadline, pipeline.subscriber) as conn:
            removed = await drop_origin(conn, pipeline)
            if await has_rows(conn, pipeline):
                removed.append(f"bookkeeping of pipeline {pipeline} on the {pipeline.subscriber}")
            await drop_bookkeeping(conn, pipeline)
        return removed

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
