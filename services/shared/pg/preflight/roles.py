"""The roles that the source's definitions name, and whether the destination can use them.

A role may own objects, have privileges, set its own default privileges ("grantor"), or be part of a
definition: of a row security policy or a user mapping, which no option leaves out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from psycopg import AsyncConnection

from services.shared.model import BOOKKEEPING_SCHEMA, ErrorKind, PgmigError, TableId
from services.shared.pg.catalog.server import listing
from services.shared.pg.selection.rules import EVERYTHING, Chosen
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql


@dataclass(frozen=True, slots=True)
class LackingRoles:
    """Roles that the destination does not have (missing), or that its role may not make the owner of objects
    (foreign). Missing roles are grouped by the option that makes them unnecessary; definition: always needed.
    """

    owner: frozenset[str] = frozenset()
    acl: frozenset[str] = frozenset()
    definition: frozenset[str] = frozenset()
    foreign: frozenset[str] = frozenset()


def lacking(
    named: Iterable[tuple[str, str]],
    existing: Collection[str],
    usable: Collection[str],
    *,
    no_owner: bool,
    no_acl: bool,
) -> LackingRoles:
    """named: (role, use) as roles.sql returns them, in any order. existing, usable: the destination's roles,
    and those that its role is a member of."""
    uses: dict[str, set[str]] = {}
    for role, use in named:
        if not (use == "owner" and no_owner) and not (use in {"grantee", "grantor"} and no_acl):
            uses.setdefault(use, set()).add(role)
    owners = uses.get("owner", set())
    granted = uses.get("grantee", set()) | uses.get("grantor", set())
    missing = {role for roles in uses.values() for role in roles if role not in existing}
    given = owners | uses.get("grantor", set())
    return LackingRoles(
        owner=frozenset(owners & missing),
        acl=frozenset(granted & missing),
        definition=frozenset(uses.get("definition", set()) & missing),
        foreign=frozenset(role for role in given if role in existing and role not in usable),
    )


def refusal(roles: LackingRoles, me: str) -> PgmigError | None:
    """The error for the operator. None if nothing is lacking. me: the destination's role."""
    missing = sorted(roles.owner | roles.acl | roles.definition)
    if missing:
        instead = [
            option
            for option, needing in (("--no-owner", roles.owner), ("--no-acl", roles.acl))
            if needing and not roles.definition
        ]
        return PgmigError(
            ErrorKind.DESTINATION_NOT_READY,
            f"roles of the source are missing on the destination: {listing(missing)}",
            "create these roles on the destination"
            + (f", or do without owners or privileges: {' '.join(instead)}" if instead else "")
            + (
                f" (policies or user mappings name {listing(sorted(roles.definition))})"
                if roles.definition
                else ""
            ),
        )
    if roles.foreign:
        return PgmigError(
            ErrorKind.PERMISSION,
            f"role {me} of the destination may not make others the owner of what it creates: "
            f"{listing(sorted(roles.foreign))}",
            "grant it membership in these roles, use a superuser, or give --no-owner "
            "(and --no-acl for default privileges)",
        )
    return None


async def check_roles(
    source: AsyncConnection,
    destination: AsyncConnection,
    me: str,
    *,
    no_owner: bool,
    no_acl: bool,
    large_objects: bool,
    chosen: Chosen = EVERYTHING,
) -> None:
    """Raise DESTINATION_NOT_READY or PERMISSION if definitions of selected objects could not be restored."""
    with translated("comparing roles"):
        cursor = await source.execute(
            load_sql("preflight/roles.sql"),
            {"bookkeeping": BOOKKEEPING_SCHEMA, "large_objects": large_objects},
        )
        named = {
            (role, use)
            async for role, use, catalog, oid, schema, name in cursor
            if chosen.restores((catalog, oid), TableId(schema, name) if name else None)
        }
        cursor = await destination.execute(
            "SELECT rolname::text, pg_catalog.pg_has_role(oid, 'MEMBER') FROM pg_catalog.pg_roles"
        )
        roles = await cursor.fetchall()
    found = lacking(
        named,
        {role for role, _ in roles},
        {role for role, member in roles if member},
        no_owner=no_owner,
        no_acl=no_acl,
    )
    error = refusal(found, me)
    if error is not None:
        raise error
