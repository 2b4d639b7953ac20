"""What the publisher of a pipeline lacks, and what its version does not send."""

from __future__ import annotations

from psycopg import AsyncConnection

from services.shared.model import PgmigError, PipelineId
from services.shared.pg.catalog.replica_identity import Published
from services.shared.pg.catalog.server import ServerFacts
from services.shared.pg.catalog.tables import ROOTS_SINCE, list_tables
from services.shared.pg.freeze.closed_database import way_in
from services.shared.pg.preflight.source import OLDEST_MAJOR, missing_rights, not_owned, wal_shortages
from services.shared.pg.replication.connection import ReplicationConnection, slot_state
from services.shared.pg.replication.truncation import TRUNCATE_SINCE
from services.shared.pg.reverse.findings import Findings
from services.shared.pg.selection.rules import Chosen
from services.shared.pg.session.connection import translated
from services.shared.pg.unpublished.extension_tables import list_extension_tables


async def check(
    findings: Findings, conn: AsyncConnection, uri: str, pipeline: PipelineId, facts: ServerFacts
) -> None:
    """Server and role: what replication needs, and what a switchover away from this server will need."""
    side = pipeline.publisher
    if facts.major < OLDEST_MAJOR:
        findings.block(
            f"the {side} runs PostgreSQL {facts.major}",
            f"changes of PostgreSQL {OLDEST_MAJOR} or newer can be replicated",
        )
    findings.refuse(await wal_shortages(conn, side, pipeline.slot))
    findings.refuse(missing_rights(facts, side))
    findings.refuse([await _replication_refused(uri, side), await _no_way_in(conn, uri, side)])
    await _slot(findings, conn, pipeline)
    await _signals(findings, conn, facts, side)
    if facts.version_num < TRUNCATE_SINCE:
        findings.warn(
            f"PostgreSQL {facts.major}, which the {side} runs, does not replicate TRUNCATE",
            "use DELETE instead while changes are replicated from this server",
        )


async def _replication_refused(uri: str, side: str) -> PgmigError | None:
    """pg_hba.conf has rules of its own for replication on some servers, and CONNECTION LIMIT counts it."""
    try:
        session = await ReplicationConnection.open(uri, side=side)
    except PgmigError as exc:
        return exc
    await session.close()
    return None


async def _no_way_in(conn: AsyncConnection, uri: str, side: str) -> PgmigError | None:
    try:
        await way_in(conn, uri, side)
    except PgmigError as exc:
        return exc
    return None


async def _slot(findings: Findings, conn: AsyncConnection, pipeline: PipelineId) -> None:
    """A slot that `prepare_reverse` created before is used again. One that somebody reads is not."""
    with translated(f"checking replication slot {pipeline.slot}"):
        slot = await slot_state(conn, pipeline.slot)
    if slot is not None and slot.active_pid:
        findings.block(
            f"replication slot {pipeline.slot} of the {pipeline.publisher} is in use by process "
            f"{slot.active_pid}",
            "stop the decoder that streams from it",
        )


async def _signals(findings: Findings, conn: AsyncConnection, facts: ServerFacts, side: str) -> None:
    with translated(f"checking our rights on the {side}"):
        row = await (
            await conn.execute("SELECT pg_catalog.pg_has_role('pg_signal_backend', 'USAGE')")
        ).fetchone()
    if not facts.superuser and (row is None or not row[0]):
        findings.warn(
            f"role {facts.role} of the {side} may not end other roles' sessions, which a switchover away "
            "from this server needs",
            f"GRANT pg_signal_backend TO {facts.role}",
        )


async def check_tables(
    findings: Findings,
    conn: AsyncConnection,
    facts: ServerFacts,
    published: Published,
    *,
    side: str,
    chosen: Chosen,
) -> None:
    """Tables that cannot be published, and rows that no publication contains."""
    altered = {one.table for one in published.altered}
    findings.refuse(await not_owned(conn, facts, {*published.whole, *altered}, side))
    findings.warn_of(
        f"tables of the {side} get REPLICA IDENTITY FULL until the pipeline is removed",
        sorted(altered),
        "add primary keys, with which UPDATE and DELETE are replicated faster",
    )
    lone = published.divided if facts.version_num >= ROOTS_SINCE else await _old_roots(conn)
    findings.warn_of(
        f"partitions of these tables that are created on the {side} from now on are not replicated",
        lone,
        "create no partitions until the migration is finished",
    )
    unlogged = [table.table for table in await list_tables(conn, chosen) if not table.logged]
    findings.warn_of(
        f"changes of unlogged tables of the {side} are not replicated",
        unlogged,
        "ALTER TABLE ... SET LOGGED, or copy their rows yourself",
    )
    with translated(f"looking for data of the {side} outside the change stream"):
        row = await (
            await conn.execute("SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)")
        ).fetchone()
    remedy = "they are synchronized while the next switchover blocks writes; count on that time"
    if row is not None and row[0]:
        findings.warn(f"large objects of the {side} are not in the change stream", remedy)
    findings.warn_of(
        f"configuration tables of extensions of the {side} are not in the change stream",
        [table.table for table in await list_extension_tables(conn)],
        remedy,
    )


async def _old_roots(conn: AsyncConnection) -> list[str]:
    """Partitioned tables. Before 13 their partitions are published one by one."""
    with translated("reading the catalog"):
        cursor = await conn.execute(
            "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
            " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind = 'p' AND NOT c.relispartition ORDER BY 1, 2"
        )
        return [f"{schema}.{name}" async for schema, name in cursor]
