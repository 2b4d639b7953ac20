"""Checks of the source: whether all of it can be read, and whether its changes can be replicated."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from psycopg import AsyncConnection

from services.shared.model import (
    BOOKKEEPING_SCHEMA,
    ErrorKind,
    NoKeyTables,
    PgmigError,
    PipelineId,
    TableId,
)
from services.shared.pg.catalog.replica_identity import choose_published
from services.shared.pg.catalog.server import ServerFacts, listing
from services.shared.pg.catalog.tables import list_tables
from services.shared.pg.preflight import read_only as preflight_read_only
from services.shared.pg.replication.truncation import TRUNCATE_SINCE
from services.shared.pg.selection.rules import EVERYTHING, SEQUENCE, Chosen
from services.shared.pg.session.connection import not_ready, translated
from services.shared.pg.session.sql_files import load_sql

OLDEST_MAJOR = 10
"""The oldest source: the first version of PostgreSQL with logical replication."""


async def check(
    conn: AsyncConnection,
    pipeline: PipelineId,
    facts: ServerFacts,
    *,
    follow: bool,
    no_key_tables: NoKeyTables = NoKeyTables.REFUSE,
    chosen: Chosen = EVERYTHING,
    rows: bool = True,
) -> list[str]:
    """Returns warnings. Raises an error for a condition that makes a migration of the selected objects
    impossible or lossy. rows: rows are migrated too."""
    if facts.major < OLDEST_MAJOR:
        raise not_ready(
            "source",
            f"the source runs PostgreSQL {facts.major}",
            f"PostgreSQL {OLDEST_MAJOR} or newer can be migrated",
        )
    if follow:
        # The freeze's check handles the database's own setting: an earlier switchover may have set it.
        if facts.read_only and facts.read_only_from != preflight_read_only.DATABASE:
            raise preflight_read_only.refusal(facts, "source")
        _raise_first([*await wal_shortages(conn, "source"), *missing_rights(facts, "source")])
        await _check_slot(conn, pipeline, inserts=no_key_tables is NoKeyTables.INSERT_ONLY)
    await _check_readable(conn, chosen, rows=rows)
    if not follow:
        return []
    await _check_publishable(conn, facts, no_key_tables, chosen)
    return await _unpublished(conn, facts, chosen)


def _raise_first(problems: Sequence[PgmigError]) -> None:
    if problems:
        raise problems[0]


async def wal_shortages(conn: AsyncConnection, side: str, slot: str = "") -> list[PgmigError]:
    """What prevents another replication slot and walsender. side: "source" or "destination". slot: one that
    may exist already."""
    with translated(f"checking the {side}'s WAL settings"):
        row = await (
            await conn.execute(
                "SELECT current_setting('wal_level'), current_setting('max_replication_slots')::int,"
                " (SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name <> %s),"
                " current_setting('max_wal_senders')::int,"
                " (SELECT count(*) FROM pg_catalog.pg_stat_get_wal_senders())",
                [slot],
            )
        ).fetchone()
    assert row is not None
    level, max_slots, slots, max_senders, senders = row
    found = []
    if level != "logical":
        found.append(
            not_ready(
                side,
                f"wal_level of the {side} is {level}",
                f"set wal_level = logical on the {side} and restart it",
            )
        )
    if slots >= max_slots:
        found.append(
            not_ready(
                side,
                f"all {max_slots} replication slots of the {side} are in use",
                f"drop a slot that nobody uses, or raise max_replication_slots and restart the {side}",
            )
        )
    if senders >= max_senders:
        found.append(
            not_ready(
                side,
                f"all {max_senders} WAL senders of the {side} are in use",
                f"raise max_wal_senders and restart the {side}",
            )
        )
    return found


def missing_rights(facts: ServerFacts, side: str) -> list[PgmigError]:
    """What the role lacks to publish changes and to freeze the database."""
    found = []
    if not facts.replication:
        found.append(
            PgmigError(
                ErrorKind.PERMISSION,
                f"role {facts.role} of the {side} lacks the REPLICATION right",
                f"ALTER ROLE {facts.role} REPLICATION, or use a role that has it",
            )
        )
    if not facts.may_create:
        found.append(
            PgmigError(
                ErrorKind.PERMISSION,
                f"role {facts.role} may not create a publication in database {facts.dbname} of the {side}",
                f"GRANT CREATE ON DATABASE {facts.dbname} TO {facts.role}",
            )
        )
    if not facts.owns_database:
        found.append(
            PgmigError(
                ErrorKind.PERMISSION,
                f"role {facts.role} does not own database {facts.dbname} of the {side}, "
                "which freezing it for the switchover needs",
                "use the database's owner, or a member of that role",
            )
        )
    return found


async def _check_slot(conn: AsyncConnection, pipeline: PipelineId, *, inserts: bool) -> None:
    publications = [pipeline.publication, *([pipeline.inserts_publication] if inserts else [])]
    with translated("checking the source's replication slots"):
        slot = await (
            await conn.execute(
                "SELECT active, active_pid FROM pg_catalog.pg_replication_slots WHERE slot_name = %s",
                [pipeline.slot],
            )
        ).fetchone()
        publication = await (
            await conn.execute(
                "SELECT pubname FROM pg_catalog.pg_publication WHERE pubname = ANY (%s)", [publications]
            )
        ).fetchone()
    if slot is not None and slot[0]:
        raise PgmigError(
            ErrorKind.SLOT_ACTIVE,
            f"replication slot {pipeline.slot} of the source is in use by process {slot[1]}",
            "another migration has this id: choose another one with --id",
        )
    if slot is not None:
        raise PgmigError(
            ErrorKind.SLOT_EXISTS,
            f"replication slot {pipeline.slot} is on the source already",
            "clean up the earlier migration of this id, or choose another one with --id",
        )
    if publication is not None:
        raise PgmigError(
            ErrorKind.ALREADY_EXISTS,
            f"publication {publication[0]} is on the source already",
            "clean up the earlier migration of this id, or choose another one with --id",
        )


async def _check_readable(conn: AsyncConnection, chosen: Chosen, *, rows: bool) -> None:
    """Check the privileges on all created tables, also those without rows: pg_dump locks what it dumps, which
    needs the same privilege. rows: the values of sequences are read."""
    with translated("checking privileges on the source's tables"):
        cursor = await conn.execute(load_sql("preflight/readable.sql"), {"bookkeeping": BOOKKEEPING_SCHEMA})
        found = [
            (kind, TableId(schema, name), denied, hidden)
            async for kind, schema, name, denied, hidden in cursor
        ]
    needed = [
        (table, denied, hidden)
        for kind, table, denied, hidden in found
        if (rows and chosen.fills(table) if kind == SEQUENCE else chosen.makes(table))
    ]
    if unreadable := [table for table, denied, _ in needed if denied]:
        raise PgmigError(
            ErrorKind.PERMISSION,
            f"tables or sequences of the source may not be read: {listing(unreadable)}",
            "grant SELECT on them and USAGE on their schemas (or pg_read_all_data)",
        )
    if hiding := [table for table, _, hidden in needed if hidden]:
        raise PgmigError(
            ErrorKind.PERMISSION,
            f"row-level security hides rows of tables: {listing(hiding)}",
            "use a role with BYPASSRLS",
        )


async def _check_publishable(
    conn: AsyncConnection, facts: ServerFacts, no_key_tables: NoKeyTables, chosen: Chosen
) -> None:
    divided = await choose_published(conn, no_key_tables, chosen)
    published = {*divided.whole, *divided.inserts_only, *(one.table for one in divided.altered)}
    _raise_first(await not_owned(conn, facts, published, "source"))


async def not_owned(
    conn: AsyncConnection, facts: ServerFacts, published: Collection[TableId], side: str
) -> list[PgmigError]:
    """The error for tables that the role cannot publish, because it does not own them."""
    if facts.superuser:
        return []
    with translated(f"checking the ownership of the {side}'s tables"):
        rows = await (
            await conn.execute(
                "SELECT s, n FROM unnest(%s::text[], %s::text[]) t (s, n)"
                " JOIN pg_catalog.pg_namespace ns ON ns.nspname = s"
                " JOIN pg_catalog.pg_class c ON c.relnamespace = ns.oid AND c.relname = n"
                " WHERE NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')",
                [[t.schema for t in published], [t.name for t in published]],
            )
        ).fetchall()
    if not rows:
        return []
    return [
        PgmigError(
            ErrorKind.PERMISSION,
            f"role {facts.role} does not own tables that are to be published: "
            f"{listing(sorted(TableId(*row) for row in rows))}",
            "use the tables' owner, a member of that role, or a superuser",
        )
    ]


async def _unpublished(conn: AsyncConnection, facts: ServerFacts, chosen: Chosen) -> list[str]:
    """Warnings about what the change stream does not contain, and about triggers that fire on the
    destination."""
    warnings = []
    if facts.version_num < TRUNCATE_SINCE:
        warnings.append(
            f"PostgreSQL {facts.major} does not replicate TRUNCATE: use DELETE until the switchover, "
            "which is refused where a truncation was missed"
        )
    unlogged = [table.table for table in await list_tables(conn, chosen) if not table.logged]
    if unlogged:
        warnings.append(f"unlogged tables are copied once, their later changes are not: {listing(unlogged)}")
    with translated("checking the source's triggers"):
        query = load_sql("preflight/triggers.sql")
        rows = await (await conn.execute(query, {"bookkeeping": BOOKKEEPING_SCHEMA})).fetchall()
    names = [table for row in rows if chosen.fills(table := TableId(*row))]
    if names:
        warnings.append(f"ALWAYS and REPLICA triggers will fire on the destination too: {listing(names)}")
    return warnings
