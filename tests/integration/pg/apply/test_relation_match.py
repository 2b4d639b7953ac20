"""How changes of a table may be written on the destination, from what its catalogs say."""

from __future__ import annotations

import pytest

from services.shared.model import Lsn, ReplicaIdentity
from services.shared.pg.apply.relation_match import describe_target
from services.shared.pg.session.connection import connection
from services.shared.pgoutput import Relation, RelationColumn
from tests.support.pipeline.in_process import run

INT4 = 23


@pytest.mark.parametrize(
    ("ddl", "identity", "keys", "row_by_row"),
    [
        ("CREATE TABLE t (id int PRIMARY KEY, v int)", ReplicaIdentity.DEFAULT, {"id"}, False),
        # Found by all columns, one at a time; what is inserted can hide nothing, so it is written in sets.
        ("CREATE TABLE t (id int, v int)", ReplicaIdentity.FULL, {"id", "v"}, False),
        ("CREATE TABLE t (id int, v int)", ReplicaIdentity.NOTHING, set(), False),
        # The source's key is none here: rows that share it would make up for a missing one in a count.
        ("CREATE TABLE t (id int, v int)", ReplicaIdentity.DEFAULT, {"id"}, True),
        ("CREATE TABLE t (id int, v int UNIQUE)", ReplicaIdentity.DEFAULT, {"id"}, True),
    ],
)
async def test_rows_are_written_in_sets_unless_they_may_share_a_key(
    dest_db: str, ddl: str, identity: ReplicaIdentity, keys: set[str], row_by_row: bool
) -> None:
    run(dest_db, ddl)
    columns = tuple(RelationColumn(name, INT4, -1, name in keys) for name in ("id", "v"))
    relation = Relation(1, "public", "t", identity, columns)
    async with connection(dest_db, "destination") as conn:
        target = await describe_target(conn, relation, Lsn(1))
    assert target.row_by_row is row_by_row
