"""Foreign keys whose rows may come to violate them, because a table's changes are not all replicated.

A foreign key that is marked valid promises that every row fits, and the planner and the operator rely on
it. Where one of its tables is copied once, or gets only INSERT and TRUNCATE, nothing keeps that promise.
So such a key is made NOT VALID: it is checked for rows that are written from then on. A server before 18
has no NOT VALID for keys of and to partitioned tables: there it is dropped. Either is reported by
name. Keys that the destination had before (--data-only) are not changed, and only reported.
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
    """Names with their tables."""

    unchecked: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the timeline."""
        why = "one of their tables is not replicated in full"
        told = {
            f"foreign keys are NOT VALID on the destination, since {why}; validate them after the "
            "switchover": self.unchecked,
            f"foreign keys are not on the destination, since {why} and it knows no NOT VALID for keys of "
            "partitioned tables; add them after the switchover": self.dropped,
        }
        return tuple(f"{what}: {listing(keys, len(keys))}" for what, keys in told.items() if keys)


async def doubtful_keys(conn: AsyncConnection, tables: Sequence[TableId]) -> str:
    """A sentence about keys that the destination had before, which are left as they are; "" if none is in
    question. Nobody could tell later that pgmig had changed them."""
    with translated("looking at the foreign keys of tables that are not replicated in full"):
        rows = await (await conn.execute(load_sql("schema/unchecked_keys.sql"), _values(tables))).fetchall()
    if not rows:
        return ""
    names = [f"{name} of {schema}.{table}" for schema, table, name, _, _ in rows]
    return (
        "rows may come to violate foreign keys of the destination, since one of their tables is not "
        "replicated in full, although they are marked as valid; drop them and add them NOT VALID, or look "
        f"for such rows after the switchover: {listing(names, len(names))}"
    )


def _values(tables: Sequence[TableId]) -> dict[str, list[str]]:
    return {"schemas": [table.schema for table in tables], "names": [table.name for table in tables]}


async def loosen_keys(conn: AsyncConnection, tables: Sequence[TableId]) -> LooseKeys:
    """Make NOT VALID what refers to `tables` or from them, and to or from unlogged tables. In one
    transaction."""
    unchecked: list[str] = []
    dropped: list[str] = []
    with translated("looking at the foreign keys of tables that are not replicated in full"):
        async with conn.transaction():
            rows = await (
                await conn.execute(load_sql("schema/unchecked_keys.sql"), _values(tables))
            ).fetchall()
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
