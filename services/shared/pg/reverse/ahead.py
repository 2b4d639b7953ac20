"""Whether both sides of a migration can be written to later (clone --bidirectional): what is known at first.

What concerns the destination's tables is checked when they are there (`services.shared.pg.reverse.check`).
"""

from __future__ import annotations

from typing import LiteralString

from psycopg import AsyncConnection

from services.shared.model import ErrorKind, MigrationId, MigrationOptions, PgmigError, TableId
from services.shared.model.conflicts.policy import OnConflict
from services.shared.pg.apply.key_states import ORIGINS_SINCE
from services.shared.pg.catalog.selected import choose
from services.shared.pg.catalog.sequences import list_sequences
from services.shared.pg.catalog.server import ServerFacts, read_server
from services.shared.pg.catalog.tables import list_tables
from services.shared.pg.reverse import others
from services.shared.pg.reverse import publisher as publisher_checks
from services.shared.pg.reverse import subscriber as subscriber_checks
from services.shared.pg.reverse.findings import Findings
from services.shared.pg.session.connection import connection, translated
from services.shared.pg.session.primary import find_primary

_WITHOUT_KEY: LiteralString = """
    SELECT t.s, t.n
      FROM unnest(%s::text[], %s::text[]) AS t (s, n)
      JOIN pg_catalog.pg_namespace n ON n.nspname = t.s
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.n
     WHERE NOT EXISTS (
             SELECT FROM pg_catalog.pg_index i
              WHERE i.indrelid = c.oid
                AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END)
     ORDER BY 1, 2"""
_NOT_OURS: LiteralString = """
    SELECT t.s, t.n
      FROM unnest(%s::text[], %s::text[]) AS t (s, n)
      JOIN pg_catalog.pg_namespace n ON n.nspname = t.s
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.n
     WHERE NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')
     ORDER BY 1, 2"""


async def check_ahead(
    source_uri: str, destination_uri: str, migration: MigrationId, options: MigrationOptions
) -> tuple[str, ...]:
    """Returns warnings. Raises SOURCE_NOT_READY with everything that is in the way, on whichever side, and
    the errors of a connection attempt."""
    findings = Findings()
    source_uri = await find_primary(source_uri, "source")
    destination_uri = await find_primary(destination_uri, "destination")
    async with (
        connection(source_uri, "source") as source,
        connection(destination_uri, "destination") as destination,
    ):
        sides = (
            (source, await read_server(source, "source"), migration.reverse),
            (destination, await read_server(destination, "destination"), migration.forward),
        )
        for conn, facts, into in sides:
            _version(findings, facts, into.subscriber)
            await subscriber_checks.check(findings, conn, into, facts, local_only=True)
            await others.check(findings, conn, migration, into.subscriber)
            await _times(findings, conn, into.subscriber, options.on_conflict)
        await publisher_checks.check(findings, destination, destination_uri, migration.reverse, sides[1][1])
        await _contents(findings, source, options)
    blocking = [one for one in findings.found if one.blocking]
    if blocking:
        raise PgmigError(
            ErrorKind.SOURCE_NOT_READY,
            "both sides cannot be written to: " + "; ".join(one.problem for one in blocking),
            "; ".join(dict.fromkeys(one.remedy for one in blocking)),
        )
    return tuple(f"{one.problem}; {one.remedy}" for one in findings.found)


def _version(findings: Findings, facts: ServerFacts, side: str) -> None:
    if facts.version_num < ORIGINS_SINCE:
        findings.block(
            f"the {side} runs PostgreSQL {facts.major}, which does not tell who has changed a row last",
            f"both sides must run PostgreSQL {ORIGINS_SINCE // 10000} or later",
        )


async def _times(findings: Findings, conn: AsyncConnection, side: str, policy: OnConflict) -> None:
    with translated(f"reading the settings of the {side}"):
        row = await (
            await conn.execute("SELECT pg_catalog.current_setting('track_commit_timestamp')::bool")
        ).fetchone()
    if row is not None and row[0]:
        return
    problem = f"the {side} does not record when transactions are committed"
    remedy = "set track_commit_timestamp = on and restart that server"
    if policy is OnConflict.LAST_UPDATE_WINS:
        findings.block(
            f"{problem}, so the last update is not known", f"{remedy}, or use another --on-conflict"
        )
    else:
        findings.warn(f"{problem}, so it is not noticed there if both sides update or delete one row", remedy)


async def _contents(findings: Findings, source: AsyncConnection, options: MigrationOptions) -> None:
    """Tables in whose rows changes of the two sides could not meet; sequences that pgmig may not alter."""
    chosen = await choose(source, options, strict=True)
    tables = [table.table for table in await list_tables(source, chosen) if table.logged]
    findings.block_for(
        "tables have no key by which rows of the two sides can be told apart",
        await _named(source, _WITHOUT_KEY, tables),
        "give each of them a primary key, or REPLICA IDENTITY USING INDEX",
    )
    if options.sequence_stride:
        findings.block_for(
            "our role does not own sequences, so it may not alter their increment",
            await _named(source, _NOT_OURS, await list_sequences(source, "source", chosen)),
            "use the owner of the sequences, a member of that role, or a superuser",
        )


async def _named(conn: AsyncConnection, query: LiteralString, names: list[TableId]) -> list[str]:
    with translated("reading the source's catalog"):
        cursor = await conn.execute(query, [[one.schema for one in names], [one.name for one in names]])
        return [f"{schema}.{name}" async for schema, name in cursor]
