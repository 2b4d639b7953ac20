"""Objects that let their owners run functions with the rights of the destination's role.

PostgreSQL evaluates CHECK constraints, generated columns, index expressions and similar objects with the
rights of the session that writes a row. Setting the role to the owner's would not protect, because the
function can reset it; see docs/safety.md. So pgmig warns if the destination's role is a superuser or can
become one.
"""

from __future__ import annotations

from psycopg import AsyncConnection

from services.shared.model import BOOKKEEPING_SCHEMA, TableId
from services.shared.pg.catalog.server import ServerFacts, listing
from services.shared.pg.selection.rules import Chosen
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql_for

NAMED_AT_MOST = 10
_MAY_GRANT_ITSELF_BEFORE = 160000
"""server_version_num before which CREATEROLE includes membership in any role except superusers."""

_POWERS = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_roles g
                WHERE g.rolsuper AND pg_catalog.pg_has_role(r.oid, g.oid, 'MEMBER')),
       r.rolcreaterole,
       ARRAY(SELECT g.rolname::text FROM pg_catalog.pg_roles g
              WHERE g.rolname IN ('pg_execute_server_program', 'pg_write_server_files')
                AND pg_catalog.pg_has_role(r.oid, g.oid, 'MEMBER') ORDER BY 1)
  FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
"""


async def check(
    where: AsyncConnection,
    destination: AsyncConnection,
    facts: ServerFacts,
    chosen: Chosen,
    *,
    no_owner: bool,
) -> list[str]:
    """Returns warnings. where: the database whose definitions act on the rows. facts: the destination's.
    Domains, ranges and casts are named whatever is selected, because tables may need them in many ways."""
    power = await _power(destination, facts)
    if power is None:
        return []
    with translated("checking functions that are called when rows are written"):
        cursor = await where.execute(
            load_sql_for("preflight/functions.sql", where.info.server_version),
            {"bookkeeping": BOOKKEEPING_SCHEMA, "no_owner": no_owner},
        )
        found = [
            what async for schema, name, what in cursor if name is None or chosen.makes(TableId(schema, name))
        ]
    if not found:
        return []
    return [
        f"functions chosen by owners who are no superusers run with the rights of {facts.role}, {power}, "
        "when rows are written to the destination, and can take over that server: "
        f"{listing(found, NAMED_AT_MOST)}. Read these functions, or use a destination role that is no "
        "superuser: docs/operating.md says how to set it up"
    ]


async def _power(destination: AsyncConnection, facts: ServerFacts) -> str | None:
    """Why the destination's role has the power of a superuser. None if it does not."""
    if facts.superuser:
        return "a superuser"
    with translated("checking the destination's role"):
        row = await (await destination.execute(_POWERS)).fetchone()
    assert row is not None
    may_become, creates_roles, reaching = row
    if may_become:
        return "which may become a superuser"
    if reaching:
        return f"which may become a superuser as a member of {listing(reaching)}"
    if creates_roles and facts.version_num < _MAY_GRANT_ITSELF_BEFORE:
        return "which may become a superuser by CREATEROLE"
    return None
