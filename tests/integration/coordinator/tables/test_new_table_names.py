"""The DDL that is proposed for a new table runs, whatever its indexes are called on the destination."""

from __future__ import annotations

import psycopg

from services.coordinator.tables.explain import creations
from services.shared.model import TableId
from services.shared.pg.session.connection import connection

SOURCE = (
    "CREATE SCHEMA app",
    'CREATE TABLE app.new (id int PRIMARY KEY, "A" text NOT NULL, n int, CONSTRAINT new_n_key UNIQUE (n),'
    " CONSTRAINT by_text CHECK (n > 0))",
    'CREATE UNIQUE INDEX "By text" ON app.new ("A")',
    "CREATE INDEX by_text ON app.new (n, id) WHERE n > 1",
    'ALTER TABLE app.new REPLICA IDENTITY USING INDEX "By text"',
    "CREATE TABLE app.newer (id int, CONSTRAINT new_pkey_1 PRIMARY KEY (id))",
)
TAKEN = (
    "CREATE SCHEMA app",
    "CREATE TABLE app.old (id int, CONSTRAINT new_pkey PRIMARY KEY (id))",
    "CREATE TABLE app.new_n_key (id int)",
    'CREATE INDEX "By text" ON app.old (id)',
)
INDEXES = (
    "SELECT c.relname, i.indisprimary, i.indisunique, i.indisreplident FROM pg_index i"
    " JOIN pg_class c ON c.oid = i.indexrelid"
    " WHERE i.indrelid = ANY (ARRAY['app.new', 'app.newer']::regclass[]) ORDER BY 1"
)


async def test_taken_names_of_indexes_are_replaced_and_named(source_db: str, dest_db: str) -> None:
    for uri, statements in ((source_db, SOURCE), (dest_db, TAKEN)):
        with psycopg.connect(uri) as conn:
            for statement in statements:
                conn.execute(statement.encode())
    tables = [TableId("app", "new"), TableId("app", "newer")]
    async with connection(source_db, "source") as source, connection(dest_db, "destination") as dest:
        found = await creations(source, dest, tables, copied=False)
    with psycopg.connect(dest_db) as conn:
        for one in found:
            for statement in one.statements:
                conn.execute(statement.encode())
        assert conn.execute(INDEXES).fetchall() == [
            ("By text_1", False, True, True),
            ("by_text", False, False, False),
            ("new_n_key_1", False, True, False),
            ("new_pkey_1", True, True, False),
            ("new_pkey_2", True, True, False),
        ]
    assert "new_pkey is created as new_pkey_2" in found[0].problem
    assert "By text is created as By text_1" in found[0].problem
    assert "taken" not in found[1].problem
