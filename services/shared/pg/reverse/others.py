"""Others that replicate into a database. Their transactions carry a replication origin.

A pipeline that starts without a copy sends only transactions without one, so theirs would be lost without an
error. Origins belong to the server, not to a database, and nothing tells which database one is used in.
Therefore

- a subscription of this database blocks, enabled or not: a switchover or an operator may enable it later
- an origin of pgmig blocks if this database has bookkeeping of its pipeline
- any other origin that has progress blocks, unless it belongs to a subscription of another database
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString

from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, MigrationId, PgmigError, PipelineId
from services.shared.pg.bookkeeping.schema import book
from services.shared.pg.catalog.server import listing
from services.shared.pg.reverse.findings import Findings
from services.shared.pg.session.connection import translated

_SUBSCRIPTIONS: LiteralString = """
    SELECT subname::text
      FROM pg_catalog.pg_subscription
     WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
     ORDER BY 1"""
# A subscription's origins are pg_<its oid>, and pg_<its oid>_<oid of a table> while a table is copied.
_ORIGINS: LiteralString = """
    SELECT o.roname
      FROM pg_catalog.pg_replication_origin o
     WHERE NOT o.roname = ANY (%s)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_subscription s
                        WHERE s.subid::pg_catalog.text = substring(o.roname FROM '^pg_([0-9]+)(_[0-9]+)?$'))
     ORDER BY 1"""
_WITH_PROGRESS: LiteralString = """
    SELECT external_id FROM pg_catalog.pg_replication_origin_status WHERE external_id = ANY (%s) ORDER BY 1"""
_READABLE: LiteralString = """
    SELECT pg_catalog.has_table_privilege('pg_catalog.pg_replication_origin_status', 'SELECT')
       AND pg_catalog.has_function_privilege('pg_catalog.pg_show_replication_origin_status()', 'EXECUTE')"""
_OURS = "pgmig_"
"""How the names of pgmig's origins begin."""


async def subscriptions(conn: AsyncConnection, side: str) -> tuple[str, ...]:
    """Names of all subscriptions of the connected database."""
    with translated(f"looking for subscriptions of the {side}"):
        rows = await (await conn.execute(_SUBSCRIPTIONS)).fetchall()
    return tuple(row[0] for row in rows)


async def refuse_subscriptions(conn: AsyncConnection, side: str) -> None:
    """During the freeze. Raises SWITCHOVER_FAILED."""
    if found := await subscriptions(conn, side):
        raise PgmigError(
            ErrorKind.SWITCHOVER_FAILED,
            f"the {side} has subscriptions now, whose changes would not be replicated: {listing(found)}",
            f"writes are not blocked any more; drop them on the {side} (DROP SUBSCRIPTION), then try again",
        )


async def check(findings: Findings, conn: AsyncConnection, migration: MigrationId, side: str) -> None:
    """side: of the migration, for messages."""
    findings.block_for(
        f"the {side} has subscriptions, whose changes would not be replicated",
        await subscriptions(conn, side),
        f"drop them on the {side} (DROP SUBSCRIPTION), or do without --reverse and --bidirectional",
    )
    own = (migration.forward.origin, migration.reverse.origin)
    with translated(f"looking for replication origins of the {side}"):
        names = [row[0] for row in await (await conn.execute(_ORIGINS, [list(own)])).fetchall()]
    ours = await _pgmigs_here(conn, [name for name in names if name.startswith(_OURS)], side)
    findings.block_for(
        f"other migrations of pgmig write into this database of the {side}, and their changes would not be "
        "replicated: replication origins",
        ours,
        "end these migrations and clean them up with pgmig-cli cleanup",
    )
    await _check_theirs(findings, conn, [name for name in names if not name.startswith(_OURS)], side)


async def _check_theirs(findings: Findings, conn: AsyncConnection, names: Sequence[str], side: str) -> None:
    if not names:
        return
    with translated(f"looking for the progress of replication origins of the {side}"):
        row = await (await conn.execute(_READABLE)).fetchone()
        if row is None or not row[0]:
            findings.block(
                f"the {side} has replication origins, and our role may not read whether they are used: "
                f"{listing(names)}",
                "GRANT SELECT ON pg_replication_origin_status and EXECUTE ON FUNCTION "
                "pg_show_replication_origin_status() to it, or drop them with pg_replication_origin_drop() "
                "if they are unused",
            )
            return
        rows = await (await conn.execute(_WITH_PROGRESS, [list(names)])).fetchall()
    findings.block_for(
        f"others replicate into the {side}, and their changes would not be replicated: replication origins",
        [row[0] for row in rows],
        "drop them with pg_replication_origin_drop() if they are unused, or do without --reverse and "
        "--bidirectional",
    )


async def _pgmigs_here(conn: AsyncConnection, names: Sequence[str], side: str) -> list[str]:
    """Those whose pipeline has an applier in this database."""
    if not names:
        return []
    with translated(f"looking for other migrations on the {side}"):
        table = book("applier")
        row = await (
            await conn.execute("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", [table.as_string(conn)])
        ).fetchone()
        if row is None or not row[0]:
            return []
        query = sql.SQL("SELECT pipeline FROM {}").format(table)
        here = {_origin(row[0]) for row in await (await conn.execute(query)).fetchall()}
    return [name for name in names if name in here]


def _origin(pipeline: str) -> str:
    try:
        return PipelineId.parse(pipeline).origin
    except PgmigError:  # of another release
        return ""
