"""Properties of the database itself, which are in no dump of its contents: the settings of ALTER DATABASE ...
SET and ALTER ROLE ... IN DATABASE ... SET, its privileges, and its comment.

They are set last, and a failure is only a warning, because no row depends on them. A setting that would
affect pgmig's own sessions is left to the operator. A setting that prevents all logins (a preload library
that is not installed) is reset while the session that set it is still open. Texts are read in UTF-8. They may
have no equivalent there, because they are stored as the session that set them sent them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import PgmigError
from services.shared.pg.session.connection import connection, translated
from services.shared.pg.session.encoding import codec_of, stored_encoding
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
    """grants: (role, "" for PUBLIC; privilege; grantable). None if none were ever granted or revoked.
    unreadable: a sentence for each property without an equivalent in UTF-8."""

    settings: tuple[Setting, ...]
    grants: tuple[tuple[str, str, bool], ...] | None
    comment: str | None
    unreadable: tuple[str, ...] = ()


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


_COMMENT: LiteralString = (
    "SELECT pg_catalog.shobj_description(d.oid, 'pg_database')"
    " FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()"
)
_GRANTS: LiteralString = (
    "SELECT coalesce(r.rolname, '')::text, a.privilege_type, a.is_grantable"
    " FROM pg_catalog.pg_database d CROSS JOIN LATERAL pg_catalog.aclexplode(d.datacl) a"
    " LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee"
    " WHERE d.datname = pg_catalog.current_database()"
    " AND a.grantee <> d.datdba AND (a.grantee = 0 OR r.oid IS NOT NULL)"
    " ORDER BY r.rolname, a.privilege_type"
)
_GRANTED = (
    "SELECT datacl IS NOT NULL FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
)
# As bytea, because the name may be what cannot be converted.
_LABEL: LiteralString = (
    "SELECT pg_catalog.convert_to(pg_catalog.concat(s.name, ' of role ' || s.role),"
    " pg_catalog.getdatabaseencoding()) FROM ({setting}) s (role, name, value)"
)


async def read_database_settings(conn: AsyncConnection) -> DatabaseSettings:
    """The settings of the connected database."""
    unreadable: list[str] = []
    with translated("reading the source database's settings"):
        settings = [Setting(*row) for row in await _settings(conn, unreadable)]
        comment = await _readable(conn, _COMMENT)
        if comment is None:
            unreadable.append(_untold("the database's comment"))
        row = await (await conn.execute(_GRANTED)).fetchone()
        assert row is not None
        grants = await _readable(conn, _GRANTS) if row[0] else None
        if row[0] and grants is None:
            unreadable.append(_untold("a role with privileges on the database"))
    return DatabaseSettings(
        tuple(settings),
        None if grants is None else tuple((who, what, grantable) for who, what, grantable in grants),
        comment[0][0] if comment else None,
        tuple(unreadable),
    )


def _untold(what: str) -> str:
    return f"{what} has no equivalent in UTF-8 and is not set on the destination: set it yourself"


async def _readable(
    conn: AsyncConnection, query: LiteralString | sql.Composed
) -> list[tuple[Any, ...]] | None:
    """The query's rows. None if a text has no equivalent in UTF-8. Databases of other encodings share these
    catalogs, so text that a database in UTF8 sends may not be UTF-8 either."""
    try:
        return await (await conn.execute(query)).fetchall()
    except (
        psycopg.errors.UntranslatableCharacter,
        psycopg.errors.CharacterNotInRepertoire,
        UnicodeDecodeError,
    ):
        return None


async def _settings(conn: AsyncConnection, unreadable: list[str]) -> list[tuple[Any, ...]]:
    query = load_sql("schema/sql/database_settings.sql")
    if (found := await _readable(conn, query)) is not None:
        return found
    count = await (
        await conn.execute(sql.SQL("SELECT count(*) FROM ({query}) s").format(query=sql.SQL(query)))
    ).fetchone()
    assert count is not None
    found = []
    for position in range(count[0]):
        one = sql.SQL("{query} LIMIT 1 OFFSET {position}").format(query=sql.SQL(query), position=position)
        rows = await _readable(conn, one)
        if rows is None:
            unreadable.append(_untold(await _label(conn, one)))
        found += rows or []
    return found


async def _label(conn: AsyncConnection, setting: sql.Composed) -> str:
    found = await _readable(conn, sql.SQL(_LABEL).format(setting=setting))
    if not found:
        return "a setting"
    return f"setting {found[0][0].decode(codec_of(stored_encoding(conn)), 'backslashreplace')}"


async def write_database_settings(uri: str, wanted: DatabaseSettings, *, privileges: bool) -> tuple[str, ...]:
    """Apply the settings to the destination's database. Returns a sentence for each that failed."""
    async with connection(uri, "destination") as conn:
        with translated("checking the destination's roles"):
            row = await (await conn.execute("SELECT current_database()")).fetchone()
            assert row is not None
            named = {setting.role for setting in wanted.settings} | {who for who, _, _ in wanted.grants or ()}
            cursor = await conn.execute(
                "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = ANY (%s)",
                [sorted(name for name in named if name)],
            )
            roles = {name async for (name,) in cursor}
        database = sql.Identifier(row[0])
        lines = [*wanted.unreadable]
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
