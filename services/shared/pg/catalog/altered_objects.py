"""Which objects of the source were dropped, renamed or altered after a snapshot was taken."""

from __future__ import annotations

from psycopg import AsyncConnection

from services.shared.pg.catalog.tables import under_snapshot
from services.shared.pg.session.connection import connection, translated
from services.shared.pg.session.sql_files import load_sql

Definition = tuple[str, str, str]
"""A description for messages, and two texts. The three of them change when the object is altered."""


async def altered_since(uri: str, snapshot: str) -> list[str]:
    """Descriptions of the objects that the snapshot shows, and that are not the same now. Objects that were
    created since do not count. Raises SNAPSHOT_LOST."""
    async with connection(uri, "source") as conn:
        async with under_snapshot(conn, snapshot):
            before = await _definitions(conn)
        now = await _definitions(conn)
    return sorted({description for description, *_ in before - now})


async def _definitions(conn: AsyncConnection) -> set[Definition]:
    with translated("reading the definitions of the source"):
        rows = await (await conn.execute(load_sql("catalog/sql/definitions.sql"))).fetchall()
    return {(str(one), str(two), str(three)) for one, two, three in rows}
