"""Compare a relation of the change stream with the record of its table from the time of the copy.

The name alone is not sufficient: the table may have been dropped and re-created, or its columns altered. The
coordinator, which can query both servers, adds a remedy to the error.
"""

from __future__ import annotations

import shlex

from psycopg import AsyncConnection

from services.shared.model import Direction, ErrorKind, Lsn, PgmigError, PipelineId, relation_signature
from services.shared.pg.catalog.table_identity import any_known, known_table
from services.shared.pgoutput import Relation


async def check_known(conn: AsyncConnection, pipeline: PipelineId, relation: Relation, lsn: Lsn) -> None:
    """Raise SCHEMA_DRIFT at `lsn` unless the relation is the table that was copied, with columns that it is
    known to have. If no identities are recorded, nothing is checked.

    conn: to the destination. relation: with its name on the source.
    """
    if not await any_known(conn, pipeline):
        return
    known = await known_table(conn, pipeline, relation.table)
    side = pipeline.publisher
    if known is None:
        problem = (
            f"table {relation.table} of the {side} is published, but was not copied:"
            " it was created, renamed or attached after the migration began"
        )
    elif known.identity.oid != relation.oid:
        problem = f"table {relation.table} of the {side} is another table than the one that was copied"
    elif signature(relation) not in known.signatures:
        problem = f"columns of table {relation.table} were altered on the {side}"
    else:
        return
    raise PgmigError(ErrorKind.SCHEMA_DRIFT, problem, _remedy(pipeline, relation), lsn)


def _remedy(pipeline: PipelineId, relation: Relation) -> str:
    if pipeline.direction is Direction.REVERSE:
        return (
            "no rows are copied back to the source, so the pipeline back cannot continue after this change: "
            "remove it"
        )
    argument = shlex.quote(relation.table.argument)
    return f"copy its rows again with: pgmig-cli resync-table --id {pipeline.migration} {argument}"


def signature(relation: Relation) -> str:
    """The signature of a Relation message, in the form of `TableIdentity.signature`."""
    return relation_signature((column.name, column.type_oid, column.typmod) for column in relation.columns)
