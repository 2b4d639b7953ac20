"""Properties of the database itself, which are in no dump of its contents: the settings of ALTER DATABASE ...
SET and ALTER ROLE ... IN DATABASE ... SET, its privileges, and its comment.

They are set last, and a failure is only a warning, because no row depends on them. A setting that would
affect pgmig's own sessions is left to the operator. A setting that prevents all logins (a preload library
that is not installed) is reset while the session that set it is still open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import PgmigError
from services.shared.pg.session.connection import connection, translated
from services.shared.pg.session.sql_files import load_sql

OURS_TOO = frozenset(
    {
        "default_transaction_read_only",
        "idle_session_timeout",
        "role",
        "session_replication_role",
        "transaction_timeout",
    }
)
"""Settings that would change the behavior of pgmig's own sessions on the destination."""

_LISTS = frozenset(
    {
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    }
)
"""Parameters with PostgreSQL's GUC_LIST_QUOTE: their value is a list of quoted names."""


@dataclass(frozen=True, slots=True)
class Setting:
    """role: None for all roles."""

    role: str | None
    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name}{f' of role {self.role}' if self.role else ''}"


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """grants: (role, "" for PUBLIC; privilege; grantable). None if none were ever granted or revoked."""

    settings: tuple[Setting, ...]
    grants: tuple[tuple[str, str, bool], ...] | None
    comment: str | None


def list_items(value: str) -> list[str]:
    """The names in a list as it is stored: comma-separated, with double quotes where needed."""
    return [item for item in _items(value) if item]


def _items(value: str) -> Iterator[str]:
    item, quoted, position = "", False, 0
    while position < len(value):
        char = value[position]
        if quoted and value[position : position + 2] == '""':
            item, position = item + '"', position + 1
        elif char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            yield item
            item = ""
        elif quoted or not char.isspace():
            item += char
        position += 1
    yield item


async def read_database_settings(conn: AsyncConnection) -> DatabaseSettings:
    """The settings of the connected database."""
    with translated("reading the source database's settings"):
        cursor = await conn.execute(load_sql("schema/sql/database_settings.sql"))
        settings = [Setting(*row) async for row in cursor]
        row = await (
            await conn.execute(
                "SELECT d.datacl IS NOT NULL, pg_catalog.shobj_description(d.oid, 'pg_database'),"
                " (SELECT json_agg(json_build_array("
                "   coalesce(r.rolname, ''), a.privilege_type, a.is_grantable)"
                "   ORDER BY r.rolname, a.privilege_type)"
                "  FROM pg_catalog.aclexplode(d.datacl) a"
                "  LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee"
                "  WHERE a.grantee <> d.datdba AND (a.grantee = 0 OR r.oid IS NOT NULL))"
                " FROM pg_catalog.pg_database d WHERE d.datname = current_database()"
            )
        ).fetchone()
    assert row is not None
    granted = tuple((who, what, grantable) for who, what, grantable in row[2] or [])
    return DatabaseSettings(tuple(settings), granted if row[0] else None, row[1])


async def write_database_settings(uri: str, wanted: DatabaseSettings, *, privileges: bool) -> tuple[str, ...]:
    """Apply the settings to the destination's database. Returns a sentence for each that failed."""
    async with connection(uri, "destination") as conn:
        with translated("checking the destination's roles"):
            row = await (await conn.execute("SELECT current_database()")).fetchone()
            assert row is not None
            cursor = await conn.execute("SELECT rolname::text FROM pg_catalog.pg_roles")
            roles = {name async for (name,) in cursor}
        database = sql.Identifier(row[0])
        lines = []
        for setting in wanted.settings:
            lines += await _set(conn, uri, database, setting, roles)
        if privileges and wanted.grants is not None:
            lines += await _grant(conn, database, wanted.grants, roles)
        if wanted.comment is not None:
            statement = sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, sql.Literal(wanted.comment))
            lines += await _attempt(conn, statement, "the database's comment")
    return tuple(lines)


async def _set(
    conn: AsyncConnection, uri: str, database: sql.Identifier, setting: Setting, roles: set[str]
) -> list[str]:
    if setting.name in OURS_TOO:
        return [f"{setting} is not set on the destination, where it would act on pgmig: set it afterwards"]
    if setting.role is not None and setting.role not in roles:
        return [f"{setting} is not set on the destination, which lacks that role"]
    problems = await _attempt(conn, _alter(database, setting), f"setting {setting}")
    if problems or await _open_to_all(uri):
        return problems
    await _attempt(conn, _alter(database, setting, reset=True), f"resetting {setting}")
    return [f"{setting} is not set on the destination: nobody could log in with it"]


def _alter(database: sql.Identifier, setting: Setting, *, reset: bool = False) -> sql.Composed:
    target = sql.SQL("ALTER DATABASE {}").format(database)
    if setting.role is not None:
        target = sql.SQL("ALTER ROLE {} IN DATABASE {}").format(sql.Identifier(setting.role), database)
    name = sql.SQL(".").join(map(sql.Identifier, setting.name.split(".")))
    if reset:
        return target + sql.SQL(" RESET {}").format(name)
    items = list_items(setting.value) if setting.name in _LISTS else [setting.value]
    return target + sql.SQL(" SET {} = {}").format(name, sql.SQL(", ").join(map(sql.Literal, items or [""])))


async def _open_to_all(uri: str) -> bool:
    try:
        async with connection(uri, "destination"):
            return True
    except PgmigError:
        return False


async def _grant(
    conn: AsyncConnection,
    database: sql.Identifier,
    grants: tuple[tuple[str, str, bool], ...],
    roles: set[str],
) -> list[str]:
    statements = [sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database)]
    lines = []
    for role, privilege, grantable in grants:
        if role and role not in roles:
            lines.append(f"{privilege} on the database is not granted to {role}, which the destination lacks")
            continue
        statements.append(
            sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                sql.SQL(_PRIVILEGES[privilege]),
                database,
                sql.Identifier(role) if role else sql.SQL("PUBLIC"),
                sql.SQL(" WITH GRANT OPTION" if grantable else ""),
            )
        )
    return lines + await _attempt(conn, sql.SQL("; ").join(statements), "the database's privileges")


_PRIVILEGES = {"CREATE": "CREATE", "CONNECT": "CONNECT", "TEMPORARY": "TEMPORARY"}


async def _attempt(conn: AsyncConnection, statement: sql.Composed, what: str) -> list[str]:
    try:
        async with conn.transaction():
            await conn.execute(statement)
    except psycopg.Error as exc:
        if conn.closed:
            with translated(what):
                raise
        return [f"{what} failed on the destination: {exc.diag.message_primary or exc}"]
    return []
