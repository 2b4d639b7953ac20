"""Create what a pipeline without a copy needs: publication and slot, and bookkeeping on the subscriber.

Call `prepare_reverse` before the position is read at which the pipeline starts. Until then it can be
repeated: it uses what an earlier call has created. The tables that get REPLICA IDENTITY FULL must be recorded
before.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, Lsn, MigrationOptions, PgmigError, PipelineId, Route, TableId
from services.shared.pg.apply.fence import fence_applier
from services.shared.pg.bookkeeping.progress import applied_progress
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.catalog.partitions import divisions, find_routes
from services.shared.pg.catalog.replica_identity import Published, set_full
from services.shared.pg.catalog.selected import choose
from services.shared.pg.catalog.table_identity import (
    forget_tables,
    freshly_known,
    known_tables,
    note_destinations,
    note_tables,
    read_identities,
)
from services.shared.pg.replication.connection import (
    FAILOVER_SINCE,
    ReplicationConnection,
    SlotState,
    SystemIdentity,
    slot_state,
)
from services.shared.pg.replication.publication import check_usable, drop_slot, ensure_publication, publishes
from services.shared.pg.reverse.ends import Announce, Ends, EndSessions, opened_ends
from services.shared.pg.session.connection import translated
from services.shared.pg.teardown import RELEASE_WAIT_S

PREPARE_WITHIN_S = 60.0
_DEFAULTS = MigrationOptions()
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class ReverseReady:
    """consistent_lsn, system_identifier, timeline: of the slot, as in `SlotReady`. The pipeline starts later:
    at the position that `current_position` returns. published: the tables of the publication. routes: for the
    applier. sends_generated: for decoder and applier."""

    consistent_lsn: Lsn
    system_identifier: str
    timeline: int
    published: tuple[TableId, ...]
    routes: tuple[Route, ...]
    sends_generated: bool


async def prepare_reverse(
    publisher_uri: str,
    subscriber_uri: str,
    pipeline: PipelineId,
    published: Published,
    *,
    epoch: str,
    options: MigrationOptions = _DEFAULTS,
    within_s: float = PREPARE_WITHIN_S,
    earlier: EndSessions | None = None,
    announce: Announce | None = None,
) -> ReverseReady:
    """published: from `check_reverse`, or as recorded then. epoch: of the applier that may write, recorded
    before; an earlier applier of this pipeline is terminated. options: of the migration. earlier,
    announce: see `opened_ends`; nothing is changed before.

    Raises TRANSIENT if it is not done within `within_s` seconds, ALREADY_EXISTS if the subscriber has
    progress of an earlier pipeline, SLOT_ACTIVE if somebody streams from the slot.
    """
    try:
        async with asyncio.timeout(within_s):
            identity = await identify(publisher_uri, pipeline)
            async with opened_ends(publisher_uri, subscriber_uri, pipeline, earlier, announce) as ends:
                preparing = _Preparing(pipeline, published, epoch, options, within_s)
                return await preparing.run(ends, identity)
    except TimeoutError as exc:
        raise PgmigError(
            ErrorKind.TRANSIENT,
            f"pipeline {pipeline} could not be prepared within {within_s:.0f} s",
            "look for locks and long transactions on both servers (pg_locks, pg_stat_activity)",
        ) from exc


@dataclass(frozen=True, slots=True)
class _Preparing:
    """One call."""

    pipeline: PipelineId
    published: Published
    epoch: str
    options: MigrationOptions
    within_s: float

    async def run(self, ends: Ends, identity: SystemIdentity) -> ReverseReady:
        publisher, subscriber = ends.publisher, ends.subscriber
        await self._subscriber(subscriber)
        await set_full(publisher, [one.table for one in self.published.altered])
        await self._publish(publisher)
        consistent = await self._slot(publisher)
        routes = await self._note(publisher, subscriber)
        return ReverseReady(
            consistent,
            identity.system_identifier,
            identity.timeline,
            self.published.whole,
            routes,
            self.published.sends_generated,
        )

    async def _subscriber(self, conn: AsyncConnection) -> None:
        """A place for the progress, and nobody who advances it."""
        await ensure_bookkeeping(conn)
        name, side = self.pipeline, self.pipeline.subscriber
        if progress := await applied_progress(conn, self.pipeline):
            raise PgmigError(
                ErrorKind.ALREADY_EXISTS,
                f"the {side} has progress {progress} of an earlier pipeline {name}",
                "remove that pipeline first",
            )
        await fence_applier(conn, self.pipeline, self.epoch)

    async def _publish(self, conn: AsyncConnection) -> None:
        name, generated = self.pipeline.publication, self.published.sends_generated
        if not await publishes(conn, name, self.published.whole, generated=generated):
            await ensure_publication(
                conn, name, self.published.whole, generated=generated, side=self.pipeline.publisher
            )

    async def _slot(self, conn: AsyncConnection) -> Lsn:
        """The slot's consistent point. A slot that an earlier call has created is used, unless its WAL is
        gone."""
        slot = await _free(conn, self.pipeline)
        if slot is not None and slot.lost:
            await drop_slot(conn, self.pipeline.slot)
            slot = None
        if slot is not None:
            return check_usable(slot, self.pipeline.slot, Lsn(0)).confirmed_flush_lsn
        return await _create(conn, self.pipeline, self.within_s)

    async def _note(self, publisher: AsyncConnection, subscriber: AsyncConnection) -> tuple[Route, ...]:
        """Record the published tables as they are, so that the applier notices when one is replaced or
        altered. Returns the routes."""
        found = await read_identities(publisher, self.pipeline)
        identities = {table: one for table, one in found.items() if one.published}
        chosen = await choose(publisher, self.options)
        routes = tuple(
            one for one in await find_routes(publisher, subscriber, chosen) if one.leaf in identities
        )
        digests = await divisions(subscriber, {route.root for route in routes})
        roots = {route.leaf: (route.root, digests[route.root]) for route in routes}
        places = {table: roots[table][0] if table in roots else table for table in identities}
        async with subscriber.transaction():
            await forget_tables(subscriber, self.pipeline, await known_tables(subscriber, self.pipeline))
            await note_tables(subscriber, self.pipeline, freshly_known(identities, roots))
            await note_destinations(subscriber, self.pipeline, places)
        return routes


async def identify(uri: str, pipeline: PipelineId) -> SystemIdentity:
    """Of the pipeline's publisher."""
    replication = await ReplicationConnection.open(uri, side=pipeline.publisher)
    try:
        return await replication.identify_system()
    finally:
        await replication.close()


async def _free(conn: AsyncConnection, pipeline: PipelineId) -> SlotState | None:
    """The slot when no session uses it. A session of an earlier call may still be creating it: if it fails,
    the server drops the slot."""
    deadline = asyncio.get_running_loop().time() + RELEASE_WAIT_S
    while True:
        with translated(f"checking replication slot {pipeline.slot}"):
            slot = await slot_state(conn, pipeline.slot)
        if slot is None or not slot.active_pid:
            return slot
        if asyncio.get_running_loop().time() > deadline:
            raise PgmigError(
                ErrorKind.SLOT_ACTIVE,
                f"replication slot {pipeline.slot} of the {pipeline.publisher} is in use by process "
                f"{slot.active_pid}",
                "stop the decoder that streams from it; a session that creates the slot waits for the oldest "
                "transaction of the server",
            )
        await asyncio.sleep(_POLL_S)  # the server does not report when a slot is released


async def _create(conn: AsyncConnection, pipeline: PipelineId, within_s: float) -> Lsn:
    """Creation waits for the transactions that have written, in all databases of the server. The server ends
    the attempt, and drops the slot, even if this process is killed."""
    try:
        with translated(f"creating replication slot {pipeline.slot} on the {pipeline.publisher}"):
            limit = sql.Literal(f"{int(within_s * 1000)}ms")
            await conn.execute(sql.SQL("SET statement_timeout = {}").format(limit))
            failover = sql.SQL(", failover => true" if conn.info.server_version >= FAILOVER_SINCE else "")
            cursor = await conn.execute(
                sql.SQL(
                    "SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot(%s, 'pgoutput'{})"
                ).format(failover),
                [pipeline.slot],
            )
            row = await cursor.fetchone()
            await conn.execute("SET statement_timeout = 0")
    except PgmigError as exc:
        if isinstance(exc.__cause__, psycopg.errors.QueryCanceled):
            raise PgmigError(
                ErrorKind.TRANSIENT,
                f"replication slot {pipeline.slot} could not be created on the {pipeline.publisher} within "
                f"{within_s:.0f} s: transactions that have written are open",
                "end the oldest transactions of that server, prepared ones included (pg_stat_activity, "
                "pg_prepared_xacts)",
            ) from exc
        raise
    assert row is not None
    return Lsn.parse(row[0])
