"""Partitioned tables that the destination partitions in another way, or not at all.

The source sends changes under the names of its partitions. If the destination has the same partitions, these
names are right. If not, a row may belong anywhere below the root. Then pgmig writes it to the root: the
server routes the row, or the root is an ordinary table.

With `publish_via_partition_root` the source would send the root's name. But then the source silently omits a
TRUNCATE of one partition. It also describes rows by the root's replica identity, although each row was logged
with its partition's. So pgmig replaces the names after it receives them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable

from psycopg import AsyncConnection

from services.shared.model import Route, TableId
from services.shared.pg.catalog.stored_text import decoded, encoding_to_read
from services.shared.pg.selection.rules import EVERYTHING, Chosen
from services.shared.pg.session.connection import translated

# One row for each table below a root, and for the root itself: its partition key and its own bounds.
_TREES = """
WITH RECURSIVE tree AS (
    SELECT c.oid AS root, c.oid, NULL::oid AS parent
      FROM pg_catalog.pg_class c
     WHERE c.relkind = 'p' AND NOT c.relispartition AND c.relpersistence <> 't'
     UNION ALL
    SELECT t.root, i.inhrelid, i.inhparent
      FROM tree t
      JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid)
SELECT rn.nspname, r.relname, n.nspname, c.relname, c.relkind::text,
       pg_catalog.convert_to(
           pg_catalog.concat_ws(' ', pn.nspname, p.relname, pg_catalog.pg_get_partkeydef(c.oid),
                                pg_catalog.pg_get_expr(c.relpartbound, c.oid)), %s)
  FROM tree t
  JOIN pg_catalog.pg_class c ON c.oid = t.oid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class r ON r.oid = t.root
  JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
  LEFT JOIN pg_catalog.pg_class p ON p.oid = t.parent
  LEFT JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
 ORDER BY 1, 2, 3, 4
"""
_EXISTING = """
SELECT n.nspname, c.relname
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p')
   AND (n.nspname, c.relname) IN (SELECT s, t FROM unnest(%s::text[], %s::text[]) AS wanted (s, t))
"""

Tree = frozenset[tuple[TableId, str, str]]
"""Tables below one root, and the root itself: name, pg_class.relkind, and its partition key and bounds."""


async def find_routes(
    source: AsyncConnection, destination: AsyncConnection, chosen: Chosen = EVERYTHING
) -> tuple[Route, ...]:
    """The partitions of the source whose rows are written to their root on the destination. They are all
    partitions of each root that exists on the destination but is partitioned there in another way, bounds
    included. If one side only has additional partitions, that is not another way: they have to be created or
    dropped. A root is left out if not all of its partitions are migrated, because it would bring the other
    partitions' rows."""
    with translated("reading the source's partitions"):
        here = {root: tree for root, tree in (await _trees(source)).items() if _whole(tree, chosen)}
    with translated("reading the destination's partitions"):
        there = await _trees(destination)
        differing = [root for root, tree in here.items() if _differ(tree, there.get(root))]
        existing = await existing_tables(destination, differing)
    return tuple(
        Route(leaf, root)
        for root in differing
        if root in existing
        for leaf, kind, _ in sorted(here[root])
        if kind == "r"
    )


async def divisions(conn: AsyncConnection, roots: Collection[TableId]) -> dict[TableId, str]:
    """How each of these tables is partitioned on this server, as a digest. All plain tables have the same
    digest."""
    with translated("reading the destination's partitions"):
        trees = await _trees(conn) if roots else {}
    return {root: _digest(trees.get(root, frozenset())) for root in roots}


def _digest(tree: Tree) -> str:
    return hashlib.blake2b(repr(sorted(tree)).encode(), digest_size=8).hexdigest()


def _differ(here: Tree, there: Tree | None) -> bool:
    if there is None:
        return True
    ways = [{table: (kind, how) for table, kind, how in tree} for tree in (here, there)]
    shared = ways[0].keys() & ways[1].keys()
    if any(ways[0][table] != ways[1][table] for table in shared):
        return True
    return len(shared) < len(ways[0]) and len(shared) < len(ways[1])


def _whole(tree: Tree, chosen: Chosen) -> bool:
    return all(chosen.fills(table) for table, kind, _ in tree if kind in ("r", "p"))


async def _trees(conn: AsyncConnection) -> dict[TableId, Tree]:
    found: dict[TableId, set[tuple[TableId, str, str]]] = defaultdict(set)
    encoding = encoding_to_read(conn)
    cursor = await conn.execute(_TREES, [encoding])
    async for root_schema, root, schema, name, kind, how in cursor:
        found[TableId(root_schema, root)].add((TableId(schema, name), kind, decoded(how, encoding)))
    return {root: frozenset(tree) for root, tree in found.items()}


async def existing_tables(conn: AsyncConnection, tables: Iterable[TableId]) -> set[TableId]:
    """Those of `tables` that exist, partitioned tables included."""
    listed = list(tables)
    names = [table.schema for table in listed], [table.name for table in listed]
    with translated("checking which tables exist"):
        cursor = await conn.execute(_EXISTING, names)
        return {TableId(schema, name) async for schema, name in cursor}
