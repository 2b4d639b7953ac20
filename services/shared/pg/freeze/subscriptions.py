"""Subscriptions of the source: their apply workers write into it although other writers may not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.session.connection import translate, translated

_LOCK_S = 5


async def enabled_subscriptions(conn: AsyncConnection, side: str = "source") -> tuple[str, ...]:
    """Names of the enabled subscriptions of the connected database. side: for messages."""
    with translated(f"looking for subscriptions of the {side}"):
        rows = await (
            await conn.execute(
                "SELECT subname::text FROM pg_catalog.pg_subscription WHERE subenabled AND subdbid ="
                " (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) ORDER BY 1"
            )
        ).fetchall()
    return tuple(row[0] for row in rows)


async def foreign_subscriptions(conn: AsyncConnection) -> tuple[str, ...]:
    """Enabled subscriptions of the connected database that our role may not disable."""
    with translated("looking for subscriptions of the source"):
        rows = await (
            await conn.execute(
                "SELECT subname::text FROM pg_catalog.pg_subscription WHERE subenabled AND subdbid ="
                " (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
                " AND NOT pg_catalog.pg_has_role(subowner, 'USAGE') ORDER BY 1"
            )
        ).fetchall()
    return tuple(row[0] for row in rows)


async def disable(conn: AsyncConnection, names: Sequence[str]) -> None:
    """Raise PERMISSION with a remedy if our role may not disable one."""
    for name in names:
        await _alter(conn, name, "DISABLE", "switch over again")


async def enable(conn: AsyncConnection, names: Sequence[str]) -> None:
    """Enable those that still exist and are disabled. If one of them cannot be enabled, the others are
    enabled nevertheless, and the first error is raised."""
    with translated("looking for subscriptions of the source"):
        rows = await (
            await conn.execute(
                "SELECT subname::text FROM pg_catalog.pg_subscription WHERE NOT subenabled AND subdbid ="
                " (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
            )
        ).fetchall()
    failures: list[PgmigError] = []
    for name in [name for name in names if (name,) in rows]:
        try:
            await _alter(conn, name, "ENABLE", "pgmig goes on")
        except PgmigError as exc:
            failures.append(exc)
    if failures:
        raise failures[0]


async def _alter(conn: AsyncConnection, name: str, action: LiteralString, afterwards: str) -> None:
    statement = sql.SQL("ALTER SUBSCRIPTION {} {}").format(sql.Identifier(name), sql.SQL(action))
    try:
        await conn.execute(sql.SQL("SET lock_timeout = {}").format(sql.Literal(f"{_LOCK_S}s")))
        await conn.execute(statement)
    except psycopg.errors.InsufficientPrivilege as exc:
        quoted = sql.Identifier(name).as_string(conn)
        raise PgmigError(
            ErrorKind.PERMISSION,
            f"subscription {name} writes into the source, and our role may not alter it",
            f"let its owner run ALTER SUBSCRIPTION {quoted} {action}, then {afterwards}",
        ) from exc
    except psycopg.Error as exc:
        raise translate(exc, f"altering subscription {name} of the source") from exc
    finally:
        if not conn.closed:
            with translated("altering subscriptions of the source"):
                await conn.execute("SET lock_timeout = 0")
