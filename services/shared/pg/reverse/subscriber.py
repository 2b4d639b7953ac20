"""What the subscriber of a pipeline lacks: a place for the progress, rights, and sequences."""

from __future__ import annotations

from psycopg import AsyncConnection

from services.shared.model import BOOKKEEPING_SCHEMA, PipelineId
from services.shared.pg.apply.long_values import LONG
from services.shared.pg.bookkeeping.progress import applied_progress
from services.shared.pg.catalog.sequences import list_sequences
from services.shared.pg.catalog.server import ServerFacts, listing
from services.shared.pg.preflight.destination import (
    no_free_origin,
    origin_facts,
    replica_role_refused,
)
from services.shared.pg.reverse.findings import Findings
from services.shared.pg.selection.rules import EVERYTHING, Chosen
from services.shared.pg.session.connection import translated
from services.shared.pg.session.event_triggers import unsilenced


async def check(
    findings: Findings, conn: AsyncConnection, pipeline: PipelineId, facts: ServerFacts, *, local_only: bool
) -> None:
    """Server and role."""
    side = pipeline.subscriber
    findings.refuse([await replica_role_refused(conn, facts, side)])
    await _bookkeeping(findings, conn, facts, side)
    await _progress(findings, conn, pipeline, facts, local_only=local_only)
    await _long_values(findings, conn, facts, side)
    findings.warn_of(
        f"event triggers of the {side} fire when pgmig creates its own tables there",
        await unsilenced(conn),
        "disable them, or use a superuser",
    )


async def _bookkeeping(findings: Findings, conn: AsyncConnection, facts: ServerFacts, side: str) -> None:
    with translated(f"checking schema {BOOKKEEPING_SCHEMA} on the {side}"):
        row = await (
            await conn.execute(
                "SELECT n.oid IS NOT NULL, coalesce(pg_catalog.has_schema_privilege(n.oid, 'CREATE'), false)"
                " FROM (VALUES (%s::text)) wanted (name)"
                " LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.name",
                [BOOKKEEPING_SCHEMA],
            )
        ).fetchone()
    assert row is not None
    exists, may_create = row
    if exists and not may_create:
        findings.block(
            f"role {facts.role} may not create tables in schema {BOOKKEEPING_SCHEMA} of the {side}",
            "use the role that owns this schema; if nothing else uses the schema, drop it",
        )
    elif not exists and not facts.may_create:
        findings.block(
            f"role {facts.role} may not create schema {BOOKKEEPING_SCHEMA} in database {facts.dbname} of the "
            f"{side}, for the progress of the pipeline",
            f"GRANT CREATE ON DATABASE {facts.dbname} TO {facts.role}",
        )


async def _progress(
    findings: Findings, conn: AsyncConnection, pipeline: PipelineId, facts: ServerFacts, *, local_only: bool
) -> None:
    """The progress of an earlier pipeline would make the applier skip changes, or refuse them."""
    side = pipeline.subscriber
    exists, denied = await origin_facts(conn, pipeline, side)
    if progress := await applied_progress(conn, pipeline):
        findings.block(
            f"the {side} has progress {progress} of an earlier pipeline {pipeline}",
            "remove that pipeline first",
        )
    if denied and local_only:
        findings.block(
            f"role {facts.role} of the {side} may not use replication origins ({listing(denied)}), by which "
            "replication in both directions recognizes its own changes",
            f"use a superuser, or GRANT EXECUTE ON FUNCTION ... TO {facts.role} for each of them",
        )
    elif denied:
        findings.warn(
            f"role {facts.role} of the {side} may not use replication origins ({listing(denied)}): progress "
            f"is kept in a table of schema {BOOKKEEPING_SCHEMA}",
            f"to use an origin, GRANT EXECUTE ON FUNCTION ... TO {facts.role} for each of them",
        )
    elif not exists:
        findings.refuse([await no_free_origin(conn, facts, side)])


async def _long_values(findings: Findings, conn: AsyncConnection, facts: ServerFacts, side: str) -> None:
    query = "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY')"
    with translated(f"checking the privileges on the {side}"):
        row = await (await conn.execute(query)).fetchone()
    if row is None or not row[0]:
        findings.block(
            f"role {facts.role} may not create temporary tables in database {facts.dbname} of the {side}, "
            f"which changes with values beyond {LONG >> 20} MB need",
            f"GRANT TEMPORARY ON DATABASE {facts.dbname} TO {facts.role}",
        )


async def check_sequences(
    findings: Findings,
    publisher: AsyncConnection,
    subscriber: AsyncConnection,
    pipeline: PipelineId,
    chosen: Chosen | None,
) -> None:
    """Sequences are not in the change stream: the next switchover sets them."""
    wanted = await list_sequences(publisher, pipeline.publisher, chosen or EVERYTHING)
    with translated(f"checking the privileges on sequences of the {pipeline.subscriber}"):
        cursor = await subscriber.execute(
            "SELECT w.s, w.n, c.oid IS NOT NULL,"
            " coalesce(pg_catalog.has_sequence_privilege(c.oid, 'UPDATE'), false)"
            "  AND coalesce(pg_catalog.has_schema_privilege(n.oid, 'USAGE'), false)"
            " FROM unnest(%s::text[], %s::text[]) w (s, n)"
            " LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = w.s"
            " LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.n"
            "  AND c.relkind = 'S'",
            [[one.schema for one in wanted], [one.name for one in wanted]],
        )
        rows = await cursor.fetchall()
    side = pipeline.subscriber
    findings.warn_of(
        f"sequences do not exist on the {side}",
        [f"{schema}.{name}" for schema, name, exists, _ in rows if not exists],
        "create them there, so that the next switchover can set them",
    )
    findings.block_for(
        f"our role may not set sequences of the {side}, which the next switchover needs",
        [f"{schema}.{name}" for schema, name, exists, may_set in rows if exists and not may_set],
        "GRANT UPDATE on them and USAGE on their schemas, or use their owner",
    )
