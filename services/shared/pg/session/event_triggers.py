"""Event triggers must not fire for pgmig's changes to the destination: they already fired on the source.

A session in role replica fires only triggers that are ENABLE REPLICA or ENABLE ALWAYS. From version 17 on,
the setting `event_triggers` disables these too. Both settings need a superuser, or a granted privilege.
"""

from __future__ import annotations

from contextlib import suppress

import psycopg
from psycopg import AsyncConnection

from services.shared.pg.session.connection import translated

_ALL_SINCE = 170000


async def silence(conn: AsyncConnection) -> None:
    """Disable event triggers in this session, as far as its role is allowed to."""
    with translated("silencing the destination's event triggers"):
        await _try(conn, "session_replication_role", "replica")
        if conn.info.server_version >= _ALL_SINCE:
            await _try(conn, "event_triggers", "off")


async def _try(conn: AsyncConnection, name: str, value: str) -> bool:
    with suppress(psycopg.errors.InsufficientPrivilege):
        async with conn.transaction():
            await conn.execute("SELECT pg_catalog.set_config(%s, %s, false)", [name, value])
            return True
    return False


async def unsilenced(conn: AsyncConnection) -> list[str]:
    """The event triggers of the destination that would fire nevertheless. Changes nothing."""
    with translated("checking the destination's event triggers"):
        if conn.info.server_version >= _ALL_SINCE:
            may = await (
                await conn.execute(
                    "SELECT pg_catalog.has_parameter_privilege('event_triggers', 'SET')"
                    " OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)"
                )
            ).fetchone()
            if may is not None and may[0]:
                return []
        rows = await (
            await conn.execute(
                "SELECT evtname::text FROM pg_catalog.pg_event_trigger"
                " WHERE evtenabled IN ('A', 'R') AND evtevent <> 'login' ORDER BY 1"
            )
        ).fetchall()
    return [row[0] for row in rows]
