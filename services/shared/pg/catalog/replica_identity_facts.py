"""What the source's catalogs say about replica identities beyond the identity itself.

Generated columns: a server before 18 never sends them, so an identity that holds one does not tell
which row was changed. From 18 on a publication sends stored ones where it is told to, and until then
UPDATE and DELETE of such a table fail on the source. Virtual ones are never sent.

Partitioned roots: a publication of a root holds the partitions that are made later too. One of those has
the root's primary key, or no replica identity at all, and then its UPDATE and DELETE fail on the source.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from psycopg import AsyncConnection

from services.shared.model import ReplicaIdentity, TableId
from services.shared.pg.catalog.tables import ROOTS_SINCE
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql

GENERATED_SINCE = 120000
"""server_version_num from which there are generated columns."""

PUBLISH_GENERATED_SINCE = 180000
"""server_version_num from which a publication can hold stored generated columns."""


@dataclass(frozen=True, slots=True)
class GeneratedColumns:
    """Of one table. identity_stored, identity_virtual: in its replica identity. virtual: anywhere."""

    identity_stored: bool = False
    identity_virtual: bool = False
    virtual: bool = False

    def hide_identity(self, identity: ReplicaIdentity, server_version_num: int) -> bool:
        """Whether the source cannot send all of the columns that identify an old row. Before 18 a row of
        REPLICA IDENTITY FULL is identified by the others, from which a generated column follows."""
        if server_version_num >= PUBLISH_GENERATED_SINCE:
            return self.identity_virtual
        return self.identity_stored and identity is not ReplicaIdentity.FULL

    def rule_out_full(self, server_version_num: int) -> bool:
        """Whether UPDATE and DELETE fail on the source once the table has REPLICA IDENTITY FULL."""
        return self.virtual and server_version_num >= PUBLISH_GENERATED_SINCE


NO_GENERATED_COLUMNS = GeneratedColumns()


async def generated_columns(conn: AsyncConnection) -> dict[TableId, GeneratedColumns]:
    """Of the tables that have any, partitioned ones too."""
    if conn.info.server_version < GENERATED_SINCE:
        return {}
    with translated("checking the source's generated columns"):
        cursor = await conn.execute(load_sql("catalog/sql/identity_generated.sql"))
        return {TableId(schema, name): GeneratedColumns(*kinds) async for schema, name, *kinds in cursor}


@dataclass(frozen=True, slots=True)
class Root:
    """A partitioned table. leaves: the tables that hold its rows now. keyed: partitions that are made
    later get a replica identity with the root's primary key."""

    table: TableId
    leaves: tuple[TableId, ...]
    keyed: bool


async def roots_among(conn: AsyncConnection, tables: Collection[TableId]) -> dict[TableId, Root]:
    """Those of `tables` that are partitioned."""
    version = conn.info.server_version
    if version < ROOTS_SINCE or not tables:
        return {}
    listed = list(tables)
    values = {
        "schemas": [table.schema for table in listed],
        "names": [table.name for table in listed],
        "generated_keys": version >= PUBLISH_GENERATED_SINCE,
    }
    found: dict[TableId, Root] = {}
    with translated("checking the source's partitioned tables"):
        cursor = await conn.execute(load_sql("catalog/sql/identity_roots.sql"), values)
        async for schema, name, leaf_schema, leaf_name, keyed in cursor:
            table = TableId(schema, name)
            leaves = found[table].leaves if table in found else ()
            if leaf_name is not None:
                leaves = (*leaves, TableId(leaf_schema, leaf_name))
            found[table] = Root(table, leaves, keyed)
    return found
