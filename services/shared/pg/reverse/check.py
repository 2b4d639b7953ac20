"""Whether a pipeline can start without a copy, and everything that is in its way.

The reverse pipeline of a migration replicates from its destination, the new primary, back to its source.
After a rollback the forward pipeline starts again in the same way. Both start at a position of their
publisher (`services.shared.pg.reverse.position`) at which both sides have the same rows.

`check_reverse` changes nothing on either server and reports all reasons at once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from psycopg import AsyncConnection

from services.shared.model import MigrationOptions, NoKeyTables, PgmigError, PipelineId, Route, TableId
from services.shared.pg.catalog.partitions import find_routes
from services.shared.pg.catalog.replica_identity import Published, choose_published
from services.shared.pg.catalog.selected import choose
from services.shared.pg.catalog.server import ServerFacts, read_server
from services.shared.pg.reverse import others
from services.shared.pg.reverse import publisher as publisher_checks
from services.shared.pg.reverse import subscriber as subscriber_checks
from services.shared.pg.reverse import tables as table_checks
from services.shared.pg.reverse.findings import Finding, Findings
from services.shared.pg.selection.rules import Chosen
from services.shared.pg.session.connection import connection

_DEFAULTS = MigrationOptions()


@dataclass(frozen=True, slots=True)
class ReverseCheck:
    """findings: the blocking ones first. published: for `prepare_reverse`; record `published.altered` before.
    routes: partitions whose rows belong into their root on the subscriber, for the applier."""

    findings: tuple[Finding, ...]
    published: Published = field(default_factory=lambda: Published(()))
    routes: tuple[Route, ...] = ()

    @property
    def blocking(self) -> tuple[Finding, ...]:
        return tuple(one for one in self.findings if one.blocking)


async def check_reverse(
    publisher_uri: str,
    subscriber_uri: str,
    pipeline: PipelineId,
    *,
    options: MigrationOptions = _DEFAULTS,
    incomplete: Collection[TableId] = (),
    local_only: bool = False,
) -> ReverseCheck:
    """options: of the migration. incomplete: tables that the pipeline before this one did not replicate
    completely (insert-only, copy-only). local_only: only transactions without a replication origin are sent,
    by this pipeline or by the one that runs in the other direction at the same time.

    Raises the errors of a connection attempt, and SOURCE_NOT_READY or DESTINATION_NOT_READY for a server in
    recovery.
    """
    findings = Findings()
    async with (
        connection(publisher_uri, pipeline.publisher) as publisher,
        connection(subscriber_uri, pipeline.subscriber) as subscriber,
    ):
        facts = (
            await read_server(publisher, pipeline.publisher),
            await read_server(subscriber, pipeline.subscriber),
        )
        _pair(findings, pipeline, *facts)
        await publisher_checks.check(findings, publisher, publisher_uri, pipeline, facts[0])
        await subscriber_checks.check(findings, subscriber, pipeline, facts[1], local_only=local_only)
        await others.check(findings, publisher, pipeline.migration, pipeline.publisher)
        await others.check(findings, subscriber, pipeline.migration, pipeline.subscriber)
        chosen = await _chosen(findings, publisher, options)
        published = Published(())
        routes: tuple[Route, ...] = ()
        if chosen is not None:
            published = await _published(findings, publisher, pipeline, options, chosen)
            routes = await find_routes(publisher, subscriber, chosen)
            await publisher_checks.check_tables(
                findings, publisher, facts[0], published, side=pipeline.publisher, chosen=chosen
            )
            await table_checks.check(
                findings, publisher, subscriber, pipeline, published=published, routes=routes
            )
        await subscriber_checks.check_sequences(findings, publisher, subscriber, pipeline, chosen)
    findings.block_for(
        "tables were not replicated completely, so both sides may have different rows",
        sorted(incomplete),
        "a pipeline back needs a migration whose tables are all replicated: give them a primary key or "
        "REPLICA IDENTITY FULL before the migration begins",
    )
    return ReverseCheck(findings.sorted(), published, routes)


def _pair(findings: Findings, pipeline: PipelineId, publisher: ServerFacts, subscriber: ServerFacts) -> None:
    if publisher.identity == subscriber.identity:
        findings.block(
            f"both connection strings lead to the same database, {publisher.dbname}",
            "give the URIs of the migration's source and of its destination",
        )
    if publisher.encoding != subscriber.encoding:
        findings.block(
            f"the {pipeline.publisher} database is encoded in {publisher.encoding}, "
            f"the {pipeline.subscriber} in {subscriber.encoding}",
            "values travel as they are stored: both databases need the same encoding",
        )


async def _chosen(findings: Findings, conn: AsyncConnection, options: MigrationOptions) -> Chosen | None:
    """The patterns of the migration, resolved on the publisher, which may have other partitions."""
    try:
        return await choose(conn, options)
    except PgmigError as exc:
        findings.refuse([exc])
        return None


async def _published(
    findings: Findings,
    conn: AsyncConnection,
    pipeline: PipelineId,
    options: MigrationOptions,
    chosen: Chosen,
) -> Published:
    """Tables without a replica identity get REPLICA IDENTITY FULL if the migration allows that. A rollback
    must lose no UPDATE or DELETE, so every other choice is refused."""
    allowed = options.no_key_tables is NoKeyTables.IDENTITY_FULL
    choice = NoKeyTables.IDENTITY_FULL if allowed else NoKeyTables.REFUSE
    try:
        return await choose_published(conn, choice, chosen)
    except PgmigError as exc:
        findings.block(
            exc.message,
            f"add a primary key without generated columns on the {pipeline.publisher}, or run there "
            "ALTER TABLE ... REPLICA IDENTITY FULL (or USING INDEX a unique index)",
        )
        return Published(())
