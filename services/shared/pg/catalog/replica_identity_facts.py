"""Facts from the source's catalogs about replica identities, beyond the identity itself.

Generated columns: a server before 18 never sends them, so an identity with a generated column does not show
which row was changed. From 18 on, a publication can be set to send stored generated columns. Without that
setting, UPDATE and DELETE of a table with such an identity fail on the source. Virtual generated columns are
never sent.

Partitioned roots: a publication of a root includes partitions that are created later. Such a partition has
the root's primary key. If the root has none, the partition has no replica identity, and its UPDATE and DELETE
fail on the source.
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
"""server_version_num from which generated columns exist."""

PUBLISH_GENERATED_SINCE = 180000
"""server_version_num from which a publication can include stored generated columns."""


@dataclass(frozen=True, slots=True)
class GeneratedColumns:
    """Generated columns of one table. identity_stored, identity_virtual: in its replica identity. virtual:
    anywhere."""

    identity_stored: bool = False
    identity_virtual: bool = False
    virtual: bool = False

    def hide_identity(self, identity: ReplicaIdentity, server_version_num: int) -> bool:
        """Whether the source cannot send all of the columns that identify an old row. Before 18, the other
        columns identify a row of REPLICA IDENTITY FULL, since a generated column is computed from them."""
        if server_version_num >= PUBLISH_GENERATED_SINCE:
            return self.identity_virtual
        return self.identity_stored and identity is not ReplicaIdentity.FULL

    def rule_out_full(self, server_version_num: int) -> bool:
        """Whether UPDATE and DELETE fail on the source once the table has REPLICA IDENTITY FULL."""
        return self.virtual and server_version_num >= PUBLISH_GENERATED_SINCE


NO_GENERATED_COLUMNS = GeneratedColumns()


async def generated_columns(conn: AsyncConnection) -> dict[TableId, GeneratedColumns]:
    """Generated columns of the tables that have any, partitioned tables included."""
    if conn.info.server_version < GENERATED_SINCE:
        return {}
    with translated("checking the source's generated columns"):
        cursor = await conn.execute(load_sql("catalog/sql/identity_generated.sql"))
        return {TableId(schema, name): GeneratedColumns(*kinds) async for schema, name, *kinds in cursor}


@dataclass(frozen=True, slots=True)
class Root:
    """A partitioned table. leaves: the tables that now store its rows. keyed: partitions that are created
    later get a replica identity from the root's primary key."""

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
