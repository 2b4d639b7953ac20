"""Indexes are built while other tables still copy; foreign keys wait for all rows and name orphans."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from clients.session import Session
from services.shared.model import MigrationOptions, MigrationView, Phase, TableState
from tests.support.data.compare import compare_databases
from tests.support.data.schema import seed
from tests.support.data.workload import Writer, check_conserved_sum, check_markers
from tests.support.servers.nats import NatsServer
from tests.support.services.services import Services, until, until_phase
from tests.support.switchover.guarded import ASKS_TO_WRITE

FOLLOW = MigrationOptions(follow=True, maintenance_work_mem_kb=16384)
HELD = "shop.ledger"
"""The table whose copy is held up."""


@pytest.fixture
def source(source_db: str) -> str:
    seed(source_db, 5_000)
    return source_db


@contextmanager
def held_up(dest: str) -> Iterator[psycopg.Connection]:
    """The copy of one table waits for the block's end; it has nothing to do with its indexes."""
    with psycopg.connect(dest) as blocker:
        blocker.execute(f"LOCK TABLE {HELD} IN ACCESS SHARE MODE")
        yield blocker


def only_the_held_is_missing(view: MigrationView) -> bool:
    """All other tables are copied and indexed."""
    left = [t for t in view.tables if t.state is not TableState.COPIED]
    return view.phase is Phase.COPY and [str(t.table) for t in left] == [HELD] and _idle(view)


def _idle(view: MigrationView) -> bool:
    return view.indexes.done > 0 and not view.indexes.building


def definitions(dest: str) -> list[str]:
    """Constraints and valid indexes of the destination, with the tables' statistics."""
    with psycopg.connect(dest) as conn:
        rows = conn.execute(
            "SELECT conname::text FROM pg_constraint WHERE contype IN ('p', 'u', 'f')"
            " AND connamespace = 'shop'::regnamespace"
            " UNION ALL SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class c ON c.oid = indrelid"
            " WHERE indisvalid AND c.relnamespace = 'shop'::regnamespace"
            " UNION ALL SELECT DISTINCT 'statistics of ' || tablename FROM pg_stats WHERE schemaname = 'shop'"
        ).fetchall()
    return [row[0] for row in rows]


def refer_to_a_new_account(source: str) -> None:
    """The table that is held up refers to a row that the accounts' copy does not have."""
    with psycopg.connect(source) as conn:
        conn.execute(
            "WITH new AS (INSERT INTO shop.accounts (owner, code, balance)"
            " VALUES ('new@example.org', 'new', 0) RETURNING id)"
            " INSERT INTO shop.ledger (target_id, amount) SELECT id, 0 FROM new"
        )


async def finish(session: Session, source: str, dest: str, writer: Writer) -> None:
    await until_phase(session, "m", Phase.STREAMING)
    writer.wait_for_commits(20)
    async for _ in session.switchover("m", 30.0):
        pass
    report = writer.wait_until_cut_off()
    assert compare_databases(source, dest) == []
    assert check_conserved_sum(dest) == []
    assert check_markers(dest, report) == []


@pytest.mark.parametrize("killed", [None, "coordinator", "decoder"])
async def test_complete_tables_get_their_indexes_while_another_is_copied(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path, killed: str | None
) -> None:
    """Killing the decoder loses the snapshot: the table that is left is copied under another one."""
    with Services(nats_server, tmp_path, workers=("decoder", "applier")) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.COPY)
            with held_up(dest_db) as blocker, Writer(source, rate=40, reconnect_for=3.0) as writer:
                services.start("copier")
                await until(session, "m", only_the_held_is_missing)
                there = definitions(dest_db)
                assert {"accounts_pkey", "shop.accounts_owner_idx", "orders_number_key"} <= set(there)
                assert "statistics of accounts" in there
                assert not [name for name in there if name.endswith("_fkey") or "ledger_" in name]
                if killed is not None:
                    services.kill9(killed)
                    refer_to_a_new_account(source)
                    services.start(killed)
                    await session.resume("m", source, dest_db)
                    told = "snapshot was lost" if killed == "decoder" else "started again"
                    await until(session, "m", lambda view: any(told in e.text for e in view.events))
                    await until(session, "m", only_the_held_is_missing)
                blocker.rollback()
                await finish(session, source, dest_db, writer)


@pytest.mark.parametrize("follow", [True, False])
async def test_row_without_its_referenced_row_stops_the_migration_until_it_is_corrected(
    follow: bool, source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """There alone, where changes are followed."""
    with psycopg.connect(source) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute(
            "INSERT INTO shop.orders (account_id, number) OVERRIDING SYSTEM VALUE VALUES (987654, 'orphan')"
        )
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, replace(FOLLOW, follow=follow))
            async for view in session.follow("m"):
                if view.phase is Phase.FAILED:
                    break
            assert view.failure is not None
            assert view.failure.kind == "ORPHAN_ROW"
            assert "orders_account_id_fkey of shop.orders" in view.failure.message
            assert "(account_id)=(987654)" in view.failure.message
            assert "then continue" in view.failure.hint
            for side in (source,) if follow else (source, dest_db):
                assert ("on the source alone" in view.failure.hint) is follow
                with psycopg.connect(side, options=ASKS_TO_WRITE) as conn:
                    conn.execute("DELETE FROM shop.orders WHERE number = 'orphan'")
            await session.resume("m", source, dest_db)
            if follow:
                await until_phase(session, "m", Phase.STREAMING)
                async for _ in session.switchover("m", 30.0):
                    pass
            else:
                await until_phase(session, "m", Phase.COMPLETE)
            assert compare_databases(source, dest_db) == []
