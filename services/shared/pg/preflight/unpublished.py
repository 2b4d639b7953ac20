"""Checks of data that publications do not contain, and warnings about what is not migrated."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import AsyncConnection

from services.shared.model import ErrorKind, LargeObjects, PgmigError, TableId
from services.shared.pg.catalog.server import ServerFacts, listing
from services.shared.pg.selection.rules import Chosen
from services.shared.pg.session.connection import translated
from services.shared.pg.unpublished.extension_tables import list_extension_tables

_LOGIN_TRIGGERS_SINCE = 170000


async def check(
    conn: AsyncConnection,
    facts: ServerFacts,
    *,
    follow: bool,
    whole: bool,
    large_objects: LargeObjects,
    chosen: Chosen,
) -> list[str]:
    """Returns warnings. Raises PERMISSION if some of this data may not be read on the source. whole:
    definitions and rows are migrated."""
    warnings = await _large_objects(conn, facts, follow=follow, choice=large_objects)
    tables = await list_extension_tables(conn) if whole else ()
    await _check_readable(conn, [table.table for table in tables])
    if follow and tables:
        warnings.append(
            "configuration tables of extensions are copied, and again while the switchover blocks writes: "
            f"{listing([table.table for table in tables])}"
        )
    warnings += await _temporary_tables(conn)
    return warnings + await _foreign_tables(conn, chosen) + await _login_triggers(conn, facts)


async def _large_objects(
    conn: AsyncConnection, facts: ServerFacts, *, follow: bool, choice: LargeObjects
) -> list[str]:
    with translated("looking for large objects"):
        row = await (
            await conn.execute(
                "SELECT count(*), count(*) FILTER (WHERE NOT pg_catalog.pg_has_role(lomowner, 'USAGE')"
                " AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(lomacl) a"
                "  WHERE a.privilege_type = 'SELECT' AND (a.grantee = 0"
                "   OR pg_catalog.pg_has_role(a.grantee, 'USAGE')))),"
                " pg_catalog.pg_size_pretty(pg_catalog.pg_table_size('pg_catalog.pg_largeobject'))"
                " FROM pg_catalog.pg_largeobject_metadata"
            )
        ).fetchone()
    assert row is not None
    count, unreadable, size = row
    if not count:
        return []
    if choice is LargeObjects.SKIP:
        return [f"{count} large objects of the source are not copied"]
    if unreadable and not facts.superuser:
        raise PgmigError(
            ErrorKind.PERMISSION,
            f"role {facts.role} may not read {unreadable} of the source's {count} large objects",
            "grant SELECT on them, use a superuser, or leave them alone with --large-objects=skip",
        )
    if not follow:
        return []
    if choice is LargeObjects.COPY_ONCE:
        return [f"{count} large objects are copied once, their later changes are not"]
    return [
        f"{count} large objects ({size}) are copied, and read again on both servers while the switchover "
        "blocks writes; --large-objects=copy-once saves that time"
    ]


async def _check_readable(conn: AsyncConnection, tables: Sequence[TableId]) -> None:
    with translated("checking privileges on configuration tables of extensions"):
        cursor = await conn.execute(
            "SELECT s, n FROM unnest(%s::text[], %s::text[]) t (s, n)"
            " WHERE NOT pg_catalog.has_table_privilege(pg_catalog.format('%%I.%%I', s, n), 'SELECT')",
            [[table.schema for table in tables], [table.name for table in tables]],
        )
        denied = [TableId(*row) for row in await cursor.fetchall()]
    if denied:
        raise PgmigError(
            ErrorKind.PERMISSION,
            f"configuration tables of the source's extensions may not be read: {listing(denied)}",
            "grant SELECT on them (or pg_read_all_data)",
        )


async def _temporary_tables(conn: AsyncConnection) -> list[str]:
    with translated("looking for temporary tables"):
        cursor = await conn.execute(
            "SELECT DISTINCT c.relname::text FROM pg_catalog.pg_class c"
            " WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 't' ORDER BY 1"
        )
        names = [row[0] for row in await cursor.fetchall()]
    return [f"temporary tables are not copied: {listing(names)}"] if names else []


async def _foreign_tables(conn: AsyncConnection, chosen: Chosen) -> list[str]:
    with translated("looking for foreign tables"):
        rows = await (
            await conn.execute(
                "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
                " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
                " WHERE c.relkind = 'f' AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d"
                " WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass"
                " AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1, 2"
            )
        ).fetchall()
    tables = [table for row in rows if chosen.makes(table := TableId(*row))]
    if not tables:
        return []
    return [f"foreign tables are defined on the destination, their rows are not copied: {listing(tables)}"]


async def _login_triggers(conn: AsyncConnection, facts: ServerFacts) -> list[str]:
    if facts.version_num < _LOGIN_TRIGGERS_SINCE:
        return []
    with translated("checking the source's event triggers"):
        rows = await (
            await conn.execute(
                "SELECT evtname::text FROM pg_catalog.pg_event_trigger"
                " WHERE evtevent = 'login' AND evtenabled <> 'D' ORDER BY 1"
            )
        ).fetchall()
    if not rows:
        return []
    return [
        "login event triggers will also fire for pgmig's own sessions on the destination: "
        f"{listing([row[0] for row in rows])}"
    ]
