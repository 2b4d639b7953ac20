"""The error for a published table that no longer matches the destination, with a remedy.

The error shows both column lists with their types and the DDL that reconciles them. The Relation message has
the source's types as OIDs. OIDs of built-in types are the same on every server, and the destination gives
their names. For any other type, the operator has to insert the name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, Lsn, PgmigError, ReplicaIdentity
from services.shared.pg.session.connection import translated
from services.shared.pgoutput import Relation

FIRST_NORMAL_OID = 16384
"""Objects with lower OIDs are built in (access/transam.h)."""

UNKNOWN_TYPE = "<its type on the source>"


async def drift(
    conn: AsyncConnection, relation: Relation, there: Mapping[str, str], lsn: Lsn
) -> PgmigError | None:
    """SCHEMA_DRIFT at `lsn` if a published column is missing on the destination. Otherwise None.

    there: the destination's columns by name, with their types. Empty if it has no such table.
    """
    missing = [column.name for column in relation.columns if column.name not in there]
    if not missing:
        return None
    types = await _source_types(conn, relation)
    here = {column.name: type_sql for column, type_sql in zip(relation.columns, types, strict=True)}
    if not there:
        return PgmigError(
            ErrorKind.SCHEMA_DRIFT,
            f"table {relation.table} does not exist on the destination; "
            f"on the source it has columns ({_listed(here)})",
            f"create it there as it is on the source, {_create(conn, relation, here)}, then continue",
            lsn,
        )
    ddl = _add(conn, relation, {name: here[name] for name in missing})
    return PgmigError(
        ErrorKind.SCHEMA_DRIFT,
        f"table {relation.table} differs: on the source it has columns ({_listed(here)}), "
        f"on the destination ({_listed(there)}); missing there: {', '.join(missing)}",
        f"{run_there(ddl)}; then continue",
        lsn,
    )


def run_there(statements: str) -> str:
    """The advice to run statements, separated by semicolons, on the destination, where sessions may be
    read-only by default."""
    return f"run on the destination: BEGIN READ WRITE; {statements}; COMMIT"


async def _source_types(conn: AsyncConnection, relation: Relation) -> Sequence[str]:
    oids = [column.type_oid if column.type_oid < FIRST_NORMAL_OID else None for column in relation.columns]
    typmods = [column.typmod for column in relation.columns]
    with translated("looking up the names of types on the destination"):
        cursor = await conn.execute(
            "SELECT pg_catalog.format_type(t.oid, c.typmod)"
            " FROM unnest(%s::bigint[], %s::int[]) WITH ORDINALITY c (oid, typmod, n)"
            " LEFT JOIN pg_catalog.pg_type t ON t.oid::bigint = c.oid ORDER BY c.n",
            [oids, typmods],
        )
        return [row[0] or UNKNOWN_TYPE async for row in cursor]


def _listed(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {type_sql}" for name, type_sql in columns.items())


def _add(conn: AsyncConnection, relation: Relation, columns: Mapping[str, str]) -> str:
    added = ", ".join(f"ADD COLUMN {definition}" for definition in _definitions(conn, columns))
    return f"ALTER TABLE {_quoted(conn, relation.schema, relation.name)} {added}"


def _create(conn: AsyncConnection, relation: Relation, columns: Mapping[str, str]) -> str:
    """CREATE TABLE, including the primary key if the replica identity is the default."""
    parts = _definitions(conn, columns)
    keys = [_quoted(conn, column.name) for column in relation.columns if column.key]
    if keys and relation.replica_identity is ReplicaIdentity.DEFAULT:
        parts.append(f"PRIMARY KEY ({', '.join(keys)})")
    return f"CREATE TABLE {_quoted(conn, relation.schema, relation.name)} ({', '.join(parts)})"


def _definitions(conn: AsyncConnection, columns: Mapping[str, str]) -> list[str]:
    return [f"{_quoted(conn, name)} {type_sql}" for name, type_sql in columns.items()]


def _quoted(conn: AsyncConnection, *name: str) -> str:
    return sql.Identifier(*name).as_string(conn)
