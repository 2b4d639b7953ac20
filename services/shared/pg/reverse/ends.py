"""The two sessions with which a pipeline's slot, publication and bookkeeping are created or removed.

A coordinator that stops responding may be replaced, and its successor may start the pipeline. What the first
one had sent, or sends when it continues, must not change that pipeline. So its sessions are recorded before
they change anything, by a compare-and-set, and its successor terminates them first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from psycopg import AsyncConnection

from services.shared.model import PipelineId
from services.shared.pg.freeze.closed_database import writable_connection
from services.shared.pg.freeze.sessions import OwnSession, alive, end_own, own_session


@dataclass(frozen=True, slots=True)
class EndSessions:
    """Sessions of pgmig that may still change what a pipeline needs, on each of its ends."""

    publisher: tuple[OwnSession, ...] = ()
    subscriber: tuple[OwnSession, ...] = ()


Announce = Callable[[EndSessions], Awaitable[None]]
"""Stores these sessions. Raises FENCED if another coordinator has taken over."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Sessions that may write although their database is read-only by default."""

    publisher: AsyncConnection
    subscriber: AsyncConnection


@asynccontextmanager
async def opened_ends(
    publisher_uri: str,
    subscriber_uri: str,
    pipeline: PipelineId,
    earlier: EndSessions | None = None,
    announce: Announce | None = None,
) -> AsyncIterator[Ends]:
    """Both sessions. announce: awaited before the block begins. After that the sessions that were recorded
    `earlier` are terminated. Raises TRANSIENT if one of them does not end."""
    earlier = earlier or EndSessions()
    publisher = await writable_connection(publisher_uri, side=pipeline.publisher)
    try:
        subscriber = await writable_connection(subscriber_uri, side=pipeline.subscriber)
        try:
            theirs = await alive(publisher, earlier.publisher), await alive(subscriber, earlier.subscriber)
            if announce is not None:
                own = await own_session(publisher), await own_session(subscriber)
                await announce(EndSessions((*theirs[0], own[0]), (*theirs[1], own[1])))
            await end_own(publisher, theirs[0], f"an earlier coordinator on the {pipeline.publisher}")
            await end_own(subscriber, theirs[1], f"an earlier coordinator on the {pipeline.subscriber}")
            yield Ends(publisher, subscriber)
        finally:
            await subscriber.close()
    finally:
        await publisher.close()
