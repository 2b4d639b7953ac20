"""Foreign keys that rows may later violate, because not all changes of a table are replicated.

A foreign key that is marked valid means that every row satisfies it, and the planner and the operator rely on
that. If one of its tables is copied once, or gets only INSERT and TRUNCATE, this cannot be guaranteed. So
pgmig makes such a key NOT VALID: it is checked for rows that are written from then on. A server before 18
does not support NOT VALID for keys of and to partitioned tables; there the key is dropped. Either is reported
with the key's name. Keys that existed on the destination before (--data-only) are only reported, not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection, sql

from services.shared.model import TableId
from services.shared.pg.catalog.server import listing
from services.shared.pg.schema.post_data import KEYS_OF_PARTITIONED_SINCE
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql


@dataclass(frozen=True, slots=True)
class LooseKeys:
    """Names of keys with their tables."""

    unchecked: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the event log."""
        why = "one of their tables is not replicated in full"
        reported = {
            f"foreign keys are NOT VALID on the destination, since {why}; validate them after the "
            "switchover": self.unchecked,
            f"foreign keys are not on the destination, since {why} and it knows no NOT VALID for keys of "
            "partitioned tables; add them after the switchover": self.dropped,
        }
        return tuple(f"{what}: {listing(keys, len(keys))}" for what, keys in reported.items() if keys)


async def doubtful_keys(conn: AsyncConnection, tables: Sequence[TableId], own: Sequence[TableId]) -> str:
    """A sentence about such keys that existed on the destination before. They are not changed, because later
    nobody could see that pgmig had changed them. "" if there are none. own: as for `loosen_keys`."""
    with translated("checking the foreign keys of tables that are not replicated in full"):
        rows = await _loose(conn, tables, own)
    if not rows:
        return ""
    names = [f"{name} of {schema}.{table}" for schema, table, name, _, _ in rows]
    return (
        "foreign keys of the destination are marked as valid, but rows may violate them later, because one "
        "of their tables is not replicated in full; drop them and add them NOT VALID, or look for such rows "
        f"after the switchover: {listing(names, len(names))}"
    )


async def _loose(
    conn: AsyncConnection, tables: Sequence[TableId], own: Sequence[TableId]
) -> list[tuple[str, str, str, str, bool]]:
    """The keys by schema, table and name, with their definitions and whether one of their tables is
    partitioned."""
    given = {
        "schemas": [table.schema for table in tables],
        "names": [table.name for table in tables],
        "own_schemas": [table.schema for table in own],
        "own_names": [table.name for table in own],
    }
    return await (await conn.execute(load_sql("schema/sql/unchecked_keys.sql"), given)).fetchall()


async def loosen_keys(
    conn: AsyncConnection, tables: Sequence[TableId], own: Sequence[TableId] = ()
) -> LooseKeys:
    """Make foreign keys to and from `tables` NOT VALID, in one transaction. own: all tables of the migration,
    of which the unlogged ones are included; other unlogged tables of the destination are ignored."""
    unchecked: list[str] = []
    dropped: list[str] = []
    with translated("checking the foreign keys of tables that are not replicated in full"):
        async with conn.transaction():
            rows = await _loose(conn, tables, own)
            for schema, table, name, definition, partitioned in rows:
                drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
                    sql.Identifier(schema, table), sql.Identifier(name)
                )
                if partitioned and conn.info.server_version < KEYS_OF_PARTITIONED_SINCE:
                    await conn.execute(drop)
                    dropped.append(f"{name} of {schema}.{table} ({definition})")
                    continue
                await conn.execute(
                    sql.SQL("{}, ADD CONSTRAINT {} {} NOT VALID").format(
                        drop, sql.Identifier(name), sql.SQL(definition)
                    )
                )
                unchecked.append(f"{name} of {schema}.{table}")
    return LooseKeys(tuple(unchecked), tuple(dropped))
