"""kill -9 while tables are copied, with some complete and one held up; the application goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from services.shared.model import Lsn, MigrationOptions, Phase
from tests.e2e.live import HELD, Live, all_but_held_copied, held_up
from tests.e2e.stack import Stack
from tests.e2e.verdict import left_on_destination, left_on_source
from tests.lab.compare import compare_databases
from tests.lab.nats import NatsServer
from tests.lab.workload import Writer

MIGRATION = "copying"
_FILES: LiteralString = (
    "SELECT relname, pg_relation_filenode(oid) FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace IN ('shop'::regnamespace, 'public'::regnamespace)"
)


def files(dest: str) -> dict[str, int]:
    """Table to the file that holds it, another one after every TRUNCATE; without the held up table."""
    with psycopg.connect(dest) as conn:
        return {name: node for name, node in conn.execute(_FILES) if name != HELD}


@pytest.fixture
def stack(nats_server: NatsServer, tmp_path: Path) -> Iterator[Stack]:
    """Without copiers, so that the copy waits at its beginning."""
    with Stack(nats_server, tmp_path, workers=("decoder", "applier")) as stack:
        yield stack


@pytest.mark.parametrize("successor", ["copier-1", "copier-2"])
async def test_killed_copier_is_replaced_and_complete_tables_stay(
    successor: str, shop: str, dest_db: str, stack: Stack, writer: Writer
) -> None:
    async with stack.session() as session:
        live = Live(session, MIGRATION, shop, dest_db)
        await live.start()
        await live.until_phase(Phase.COPY)
        with held_up(dest_db):
            stack.start("copier-1")
            await live.until(all_but_held_copied)
            before = files(dest_db)
            stack.kill9("copier-1")
            writer.wait_for_commits(20)
        stack.start(successor)
        await live.until_phase(Phase.STREAMING)
        assert files(dest_db) == before
        await live.finish(writer)


async def test_killed_decoder_costs_a_new_snapshot_and_complete_tables_stay(
    shop: str, dest_db: str, stack: Stack, writer: Writer
) -> None:
    async with stack.session() as session:
        live = Live(session, MIGRATION, shop, dest_db)
        await live.start()
        await live.until_phase(Phase.COPY)
        with held_up(dest_db):
            stack.start("copier-1", "copier-2")
            await live.until(all_but_held_copied)
            before = files(dest_db)
            stack.kill9("decoder")
            writer.wait_for_commits(40)
            stack.start("decoder")
            await live.until_event("the snapshot was lost")
        await live.until_phase(Phase.STREAMING)
        assert files(dest_db) == before
        assert floors(stack) == {HELD}
        await live.finish(writer)
        await session.cleanup(MIGRATION)
        assert left_on_source(shop) == []
        assert left_on_destination(dest_db) == []


async def test_killed_decoder_costs_a_plain_clone_all_its_copies(
    shop: str, dest_db: str, stack: Stack, writer: Writer
) -> None:
    """Tables of two moments would not be a copy of any."""
    async with stack.session() as session:
        live = Live(session, MIGRATION, shop, dest_db)
        await live.start(MigrationOptions(follow=False))
        await live.until_phase(Phase.COPY)
        with held_up(dest_db):
            stack.start("copier-1", "copier-2")
            await live.until(all_but_held_copied)
            stack.kill9("decoder")
            writer.wait_for_commits(40)
            writer.stop()
            stack.start("decoder")
            await live.until_event("the snapshot was lost")
        await live.until_phase(Phase.COMPLETE)
        assert compare_databases(shop, dest_db) == []
        assert left_on_source(shop) == []


def floors(stack: Stack) -> set[str]:
    """Tables of which the applier skips what their later snapshot has, by the state file."""
    state = json.loads((stack.state_dir / MIGRATION / "state.json").read_text())
    tables = state["record"]["tables"]
    return {table["table"]["name"] for table in tables if Lsn.parse(table["floor"])}
