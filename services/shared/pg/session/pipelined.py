"""Several statements sent as one query: one round trip instead of one each."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection, sql


async def answers(conn: AsyncConnection, *statements: sql.Composable) -> list[list[tuple[Any, ...]]]:
    """The rows of each statement that returns rows. In autocommit mode the statements are one transaction,
    unless there is a BEGIN among them. The first error cancels all of them. Raises psycopg.Error."""
    cursor = await conn.execute(sql.SQL("; ").join(statements))
    found = []
    while True:
        if cursor.description is not None:
            found.append(await cursor.fetchall())
        if not cursor.nextset():
            return found
