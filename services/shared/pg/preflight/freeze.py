"""Checks of the requirements of the switchover's freeze, and of roles and subscriptions that bypass its
settings."""

from __future__ import annotations

from psycopg import AsyncConnection

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.catalog.server import ServerFacts, listing
from services.shared.pg.freeze.closed_database import way_in
from services.shared.pg.freeze.thaw import SETTING
from services.shared.pg.session.connection import translated


async def check(conn: AsyncConnection, uri: str, facts: ServerFacts) -> list[str]:
    """Returns warnings. Raises an error for a condition that would prevent the switchover from freezing the
    source."""
    if facts.read_only:
        raise PgmigError(
            ErrorKind.SOURCE_NOT_READY,
            f"sessions on database {facts.dbname} of the source are read-only by default",
            "where an earlier switchover has frozen it, pgmig-cli unfreeze of that migration lets writers in "
            f"again; so does ALTER DATABASE {facts.dbname} RESET {SETTING}, or ALTER ROLE if it is a role's",
        )
    await way_in(conn, uri)
    return [*await _overrides(conn), *await _subscriptions(conn), *await _rights(conn, facts)]


async def _overrides(conn: AsyncConnection) -> list[str]:
    with translated("looking for settings of the source's roles"):
        rows = await (
            await conn.execute(
                "SELECT DISTINCT r.rolname::text FROM pg_catalog.pg_db_role_setting s"
                " JOIN pg_catalog.pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) c"
                " WHERE split_part(c, '=', 1) = %s AND split_part(c, '=', 2) NOT IN ('on', 'true', '1')"
                " AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database"
                " WHERE datname = current_database())) ORDER BY 1",
                [SETTING],
            )
        ).fetchall()
    if not rows:
        return []
    return [
        f"roles of the source have a {SETTING} of their own: {listing([row[0] for row in rows])}; the "
        "switchover keeps them out like all others, but after unfreeze --read-only they can write"
    ]


async def _subscriptions(conn: AsyncConnection) -> list[str]:
    with translated("looking for subscriptions of the source"):
        rows = await (
            await conn.execute(
                "SELECT subname::text, pg_catalog.pg_has_role(subowner, 'USAGE')"
                " FROM pg_catalog.pg_subscription WHERE subenabled AND subdbid ="
                " (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) ORDER BY 1"
            )
        ).fetchall()
    warnings = []
    if rows:
        warnings.append(
            f"subscriptions write into the source: {listing([row[0] for row in rows])}; the switchover "
            "disables them, and does not create them on the destination: create them there afterwards"
        )
    if others := [name for name, ours in rows if not ours]:
        warnings.append(
            f"our role may not disable subscriptions of the source: {listing(others)}; let their owner do it "
            "before the switchover, which is refused otherwise"
        )
    return warnings


async def _rights(conn: AsyncConnection, facts: ServerFacts) -> list[str]:
    with translated("checking our rights on the source"):
        row = await (
            await conn.execute("SELECT pg_catalog.pg_has_role('pg_signal_backend', 'USAGE')")
        ).fetchone()
    if facts.superuser or (row is not None and row[0]):
        return []
    return [
        f"role {facts.role} of the source may not end other roles' sessions, which the switchover needs: "
        f"GRANT pg_signal_backend TO {facts.role}"
    ]
