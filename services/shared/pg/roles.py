"""Which roles the source's objects name, and whether the destination has them."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import AsyncConnection

from services.shared.model import BOOKKEEPING_SCHEMA
from services.shared.pg.catalog import load_sql
from services.shared.pg.connection import translated


@dataclass(frozen=True, slots=True)
class MissingRoles:
    """Roles of the source that the destination lacks, or whose objects its role may not give away.

    in_policies: named by row-level security policies, which cannot be restored without them.
    """

    as_owner_or_grantee: tuple[str, ...]
    in_policies: tuple[str, ...]


async def missing_roles(source: AsyncConnection, destination: AsyncConnection) -> MissingRoles:
    """Compare both servers."""
    with translated("comparing roles"):
        cursor = await source.execute(load_sql("roles.sql"), {"bookkeeping": BOOKKEEPING_SCHEMA})
        named = await cursor.fetchall()
        # A member of a role, or a superuser, may make it the owner of an object.
        usable = {
            row[0]
            for row in await (
                await destination.execute(
                    "SELECT rolname::text FROM pg_catalog.pg_roles"
                    " WHERE rolname = ANY(%s) AND pg_catalog.pg_has_role(oid, 'MEMBER')",
                    [[row[0] for row in named]],
                )
            ).fetchall()
        }
        existing = {
            row[0]
            for row in await (
                await destination.execute("SELECT rolname::text FROM pg_catalog.pg_roles")
            ).fetchall()
        }
    owners = {role for role, use in named if use == "owner" and role not in usable}
    grantees = {role for role, use in named if use == "grantee" and role not in existing}
    policies = {role for role, use in named if use == "policy" and role not in existing}
    return MissingRoles(tuple(sorted(owners | grantees)), tuple(sorted(policies)))
