"""A source whose post-data section has every property that a restore might lose, and restoring it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import psycopg

from services.coordinator.post_data.schedule import Schedule, Task, one_by_one, table_tasks
from services.coordinator.post_data.task_pool import TaskPool
from services.shared.model import MigrationId, TableId
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping, steps_done
from services.shared.pg.schema.archive.entries import Section
from services.shared.pg.schema.archive.restore_sql import Script
from services.shared.pg.schema.dump import dump_schema, section_script
from services.shared.pg.schema.dump_tools import DumpTools
from services.shared.pg.schema.post_data import (
    BuildingSession,
    Item,
    Plan,
    analysis,
    building_session,
    plan,
    relations,
)
from services.shared.pg.session.connection import connection

SCHEMA = """
CREATE EXTENSION btree_gist;
CREATE SCHEMA odd;
CREATE FUNCTION odd.folded(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.lower($1)';
CREATE TABLE odd.parts (
    id      bigint,
    code    text CONSTRAINT parts_code UNIQUE NULLS NOT DISTINCT,
    label   text,
    period  int4range,
    room    int,
    CONSTRAINT parts_key PRIMARY KEY (id) INCLUDE (label) WITH (fillfactor = 70),
    CONSTRAINT "late; (one)" UNIQUE (room, label) DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT parts_deferrable UNIQUE (id, room) DEFERRABLE,
    CONSTRAINT parts_apart EXCLUDE USING gist (room WITH =, period WITH &&) WHERE (label <> ';')
);
CREATE INDEX parts_folded ON odd.parts (odd.folded(label)) WITH (fillfactor = 50) WHERE code <> E'a\\\\;b';
CREATE INDEX "Parts; Expr" ON odd.parts ((label || ' ON odd.x ('), room DESC NULLS LAST);
ALTER INDEX odd."Parts; Expr" ALTER COLUMN 1 SET STATISTICS 300;
ALTER TABLE odd.parts CLUSTER ON parts_key;
ALTER TABLE odd.parts ADD CONSTRAINT parts_room CHECK (room > 0) NOT VALID;
COMMENT ON INDEX odd.parts_folded IS 'folded; really';
COMMENT ON CONSTRAINT parts_code ON odd.parts IS 'one code each';
CREATE STATISTICS odd.parts_together ON code, (label || ' FROM odd.x') FROM odd.parts;
CREATE TABLE odd."Named. (Oddly)" ("a,b" int NOT NULL, "c""d" int NOT NULL, e int, UNIQUE ("a,b", "c""d"));
CREATE UNIQUE INDEX named_identity ON odd."Named. (Oddly)" ("c""d");
ALTER TABLE odd."Named. (Oddly)" REPLICA IDENTITY USING INDEX named_identity;
ALTER TABLE odd."Named. (Oddly)" CLUSTER ON named_identity;
CREATE TABLE odd.identified (a int NOT NULL CONSTRAINT identified_by UNIQUE);
ALTER TABLE odd.identified REPLICA IDENTITY USING INDEX identified_by;
CREATE TABLE odd.moved (id int PRIMARY KEY, at int NOT NULL, part bigint) PARTITION BY RANGE (id);
CREATE TABLE odd.moved_1 PARTITION OF odd.moved FOR VALUES FROM (0) TO (100);
CREATE TABLE odd.moved_2 PARTITION OF odd.moved FOR VALUES FROM (100) TO (200) PARTITION BY LIST (id);
CREATE TABLE odd.moved_2_x PARTITION OF odd.moved_2 DEFAULT;
CREATE INDEX moved_at ON odd.moved (at);
ALTER TABLE odd.moved ADD UNIQUE (id, at);
CREATE INDEX moved_1_own ON odd.moved_1 (at, id);
COMMENT ON INDEX odd.moved_1_own IS 'its own';
ALTER TABLE odd.moved ADD CONSTRAINT moved_part FOREIGN KEY (part) REFERENCES odd.parts (id);
CREATE TABLE odd.users (
    moved int CONSTRAINT users_moved REFERENCES odd.moved (id),
    a int, b int, part bigint, self int PRIMARY KEY REFERENCES odd.users DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT users_named FOREIGN KEY (a, b) REFERENCES odd."Named. (Oddly)" ("a,b", "c""d")
        MATCH FULL ON DELETE SET NULL (a, b)
);
ALTER TABLE odd.users ADD CONSTRAINT users_part FOREIGN KEY (part) REFERENCES odd.parts ON DELETE CASCADE;
ALTER TABLE odd.users ADD CONSTRAINT users_unchecked FOREIGN KEY (part) REFERENCES odd.parts NOT VALID;
CREATE TABLE odd.base (id int PRIMARY KEY, x int);
CREATE TABLE odd.derived (CONSTRAINT derived_key PRIMARY KEY (id)) INHERITS (odd.base);
CREATE MATERIALIZED VIEW odd.grouped AS SELECT id, label, count(*) FROM odd.parts GROUP BY id WITH NO DATA;
CREATE UNIQUE INDEX grouped_id ON odd.grouped (id);
CREATE RULE parts_rule AS ON DELETE TO odd.parts WHERE (old.id < 0) DO INSTEAD NOTHING;
ALTER TABLE odd.users ENABLE ROW LEVEL SECURITY;
CREATE POLICY users_own ON odd.users USING (self > 0);
"""

ROWS = """
INSERT INTO odd.parts SELECT i, 'c' || i, 'l' || i, int4range(i, i + 1), 1 + i % 7
    FROM generate_series(1, 500) i;
INSERT INTO odd."Named. (Oddly)" SELECT i, i, i FROM generate_series(1, 200) i;
INSERT INTO odd.identified SELECT generate_series(1, 200);
INSERT INTO odd.moved SELECT i, i, 1 + i FROM generate_series(0, 199) i;
INSERT INTO odd.users SELECT i, i, i, i, i FROM generate_series(1, 99) i;
INSERT INTO odd.base SELECT i, i FROM generate_series(1, 50) i;
INSERT INTO odd.derived SELECT i, i FROM generate_series(51, 99) i;
"""


def make_source(uri: str) -> None:
    with psycopg.connect(uri) as conn:
        conn.execute(SCHEMA)
        conn.execute(ROWS)


async def scripts(tools: DumpTools, source: str, folder: Path) -> tuple[Script, Script]:
    """Pre-data and post-data."""
    archive = folder / "schema.dump"
    await dump_schema(tools, source, None, archive)
    pre, post = [await section_script(archive, part) for part in (Section.PRE_DATA, Section.POST_DATA)]
    return pre, post


async def planned(dest: str, script: Script) -> tuple[Plan, dict[TableId, str]]:
    async with connection(dest, "destination") as conn:
        await ensure_bookkeeping(conn)
        kinds = await relations(conn)
        return plan(script, kinds, conn.info.server_version), kinds


PIPELINE = MigrationId("m").forward


async def done_steps(dest: str) -> set[str]:
    async with connection(dest, "destination") as conn:
        return await steps_done(conn, PIPELINE)


async def work_off(dest: str, whole: Plan, tasks: list[Task], workers: int = 2) -> None:
    """The statements that are not recorded as done yet, if all rows are copied."""
    done = await done_steps(dest)

    async def run(session: BuildingSession, items: Sequence[Item]) -> None:
        await session.run([item for item in items if item.step not in done])

    def session() -> AbstractAsyncContextManager[BuildingSession]:
        return building_session(dest, PIPELINE, whole.settings, 8192, 1)

    schedule = Schedule(tasks)
    schedule.all_are_complete()
    await TaskPool(schedule, session, run).work_off(workers)


def tasks_of_tables(whole: Plan, kinds: dict[TableId, str], *, at_once: bool = False) -> list[Task]:
    return [
        task
        for items in whole.tables
        for task in table_tasks(items, analysis(items.table, kinds[items.table]), at_once=at_once)
    ]


async def post_data(dest: str, script: Script, *, at_once: bool = False) -> None:
    """Restore the whole section, as phase indexes does."""
    whole, kinds = await planned(dest, script)
    await work_off(dest, whole, tasks_of_tables(whole, kinds, at_once=at_once))
    await work_off(dest, whole, [Task("parents", (whole.parents,))] if whole.parents else [])
    await work_off(dest, whole, [Task("keys", (whole.keys,))] if whole.keys else [])
    await work_off(dest, whole, [one_by_one(str(n), chain) for n, chain in enumerate(whole.checks)])
    await work_off(dest, whole, [Task("rest", (whole.rest,))] if whole.rest else [])


def dumped_schema(tools: DumpTools, uri: str) -> list[str]:
    """pg_dump's output for the database, without text that differs between runs."""
    text = subprocess.run(
        [tools.pg_dump, "--schema-only", "--exclude-schema=pgmig", f"--dbname={uri}"],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout
    volatile = ("\\restrict", "\\unrestrict", "-- Dumped")
    return [line for line in text.splitlines() if not line.startswith(volatile)]
