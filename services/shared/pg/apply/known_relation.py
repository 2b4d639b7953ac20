"""A relation of the change stream held against what was noted of its table when it was copied.

The name alone proves nothing: the table may have been dropped and made again, or its columns altered.
The coordinator, which can look at both servers, adds to the error what to do about it.
"""

from __future__ import annotations

import shlex

from psycopg import AsyncConnection

from services.shared.model import ErrorKind, Lsn, PgmigError, relation_signature
from services.shared.pg.catalog.table_identity import any_known, known_table
from services.shared.pgoutput import Relation


async def check_known(conn: AsyncConnection, migration_id: str, relation: Relation, lsn: Lsn) -> None:
    """Raises SCHEMA_DRIFT at `lsn` unless the relation is the table that was copied, with columns that it
    is known to have. Where no identities are kept, nothing is checked.

    conn: on the destination. relation: by its name on the source.
    """
    if not await any_known(conn, migration_id):
        return
    known = await known_table(conn, migration_id, relation.table)
    if known is None:
        problem = (
            f"table {relation.table} of the source is published, but was not copied:"
            " it was created, renamed or attached after the migration began"
        )
    elif known.identity.oid != relation.oid:
        problem = f"table {relation.table} of the source is another table than the one that was copied"
    elif signature(relation) not in known.signatures:
        problem = f"columns of table {relation.table} were altered on the source"
    else:
        return
    argument = shlex.quote(relation.table.argument)
    raise PgmigError(
        ErrorKind.SCHEMA_DRIFT,
        problem,
        f"copy its rows again with: pgmig-cli resync-table --id {migration_id} {argument}",
        lsn,
    )


def signature(relation: Relation) -> str:
    """Of a Relation message, as `TableIdentity.signature` has it."""
    return relation_signature((column.name, column.type_oid, column.typmod) for column in relation.columns)
