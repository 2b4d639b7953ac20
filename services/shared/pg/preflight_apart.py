"""Checks of what no publication carries, and a word about what stays behind."""

from __future__ import annotations

from psycopg import AsyncConnection

from services.shared.model import ErrorKind, LargeObjects, PgmigError, TableId
from services.shared.pg.choice import EVERYTHING, Chosen
from services.shared.pg.connection import translated
from services.shared.pg.extension_tables import list_extension_tables
from services.shared.pg.preflight_server import ServerFacts, listing

_LOGIN_TRIGGERS_SINCE = 170000


async def check(
    conn: AsyncConnection,
    facts: ServerFacts,
    *,
    follow: bool,
    large_objects: LargeObjects,
    chosen: Chosen = EVERYTHING,
) -> list[str]:
    """Warnings; raises PERMISSION for large objects of the source that may not be read."""
    warnings = await _large_objects(conn, facts, follow=follow, choice=large_objects)
    if follow and (tables := await list_extension_tables(conn)):
        warnings.append(
            "configuration tables of extensions are copied, and again while the switchover blocks writes: "
            f"{listing([table.table for table in tables])}"
        )
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
        return [f"{count} large objects of the source are left alone"]
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
    return [
        f"foreign tables are defined on the destination, their rows stay where they are: {listing(tables)}"
    ]


async def _login_triggers(conn: AsyncConnection, facts: ServerFacts) -> list[str]:
    if facts.version_num < _LOGIN_TRIGGERS_SINCE:
        return []
    with translated("looking at the source's event triggers"):
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
