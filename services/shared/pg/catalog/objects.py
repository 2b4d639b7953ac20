"""User-created objects of a database, by kind and name, and how to drop them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection

from services.shared.model import TableId
from services.shared.pg.selection.dependencies import Edge, Node
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql

SCHEMA = "schema"
LARGE_OBJECT = "large object"
_GO_ALONG = frozenset({"user mapping"})
"""Kinds that are dropped together with a server and have no CASCADE."""


@dataclass(frozen=True, slots=True)
class DatabaseObject:
    """kind, identity: as pg_identify_object returns them, usable in DROP and equal on every server. schema:
    "" for objects outside of schemas. relation: only for tables, views and sequences."""

    node: Node
    kind: str
    identity: str
    schema: str
    relation: TableId | None

    def __str__(self) -> str:
        return f"{self.kind} {self.identity}"


async def list_objects(conn: AsyncConnection, side: str) -> tuple[DatabaseObject, ...]:
    """The objects of a database: the first one of each kind, then the second one of each kind, and so on. So
    the first few objects show which kinds exist."""
    with translated(f"reading the contents of the {side}"):
        rows = await (await conn.execute(load_sql("catalog/sql/objects.sql"))).fetchall()
    return tuple(
        DatabaseObject((catalog, oid), kind, identity, schema or "", TableId(schema, name) if name else None)
        for catalog, oid, schema, name, kind, identity in rows
    )


async def list_schemas(conn: AsyncConnection) -> tuple[str, ...]:
    with translated("listing schemas"):
        cursor = await conn.execute("SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_'")
        return tuple([row[0] async for row in cursor])


async def dependencies(conn: AsyncConnection, side: str) -> list[Edge]:
    with translated(f"checking the {side}'s dependencies"):
        cursor = await conn.execute(load_sql("catalog/sql/dependencies.sql"))
        return [Edge((c, o), (needed_c, needed), kind) async for c, o, needed_c, needed, kind in cursor]


async def describe(conn: AsyncConnection, nodes: Iterable[Node]) -> list[str]:
    """The description of each object, sorted: `view app.recent`."""
    listed = list(nodes)
    with translated("naming objects"):
        cursor = await conn.execute(
            "SELECT pg_catalog.pg_describe_object(c::oid, o::oid, 0)"
            " FROM unnest(%s::bigint[], %s::bigint[]) t (c, o) ORDER BY 1",
            [[catalog for catalog, _ in listed], [oid for _, oid in listed]],
        )
        return [str(row[0]) async for row in cursor]


async def drop_objects(conn: AsyncConnection, objects: Sequence[DatabaseObject]) -> None:
    """Drop the objects within the caller's transaction. CASCADE is needed because the objects may depend on
    each other in circles. The caller has checked that no other objects depend on them."""
    with translated("dropping objects of the destination"):
        for one in objects:
            if one.kind in _GO_ALONG:
                continue
            # Both parts come from the server, which has quoted the identity.
            kind = one.kind.upper().replace("-", " ")
            statement = f"DROP {kind} IF EXISTS {one.identity} CASCADE"
            await conn.execute(statement.encode())
