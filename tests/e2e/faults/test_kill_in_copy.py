"""kill -9 while tables are copied, with some complete and one held up; the application goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from services.shared.bus.connection import bus
from services.shared.bus.queue import delete_queue
from services.shared.model import Lsn, MigrationId, MigrationOptions, Phase
from tests.fakes.copier_coordinator import Gate, closed_gate, make_gate
from tests.support.copying.databases import execute, scalar
from tests.support.data.compare import compare_databases
from tests.support.data.workload import Writer, check_conserved_sum
from tests.support.migrations.live import HELD, Live, all_but_held_copied, eventually, held_up
from tests.support.migrations.stack import Stack
from tests.support.migrations.verdict import left_on_destination, left_on_source
from tests.support.servers.nats import NatsServer

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


async def test_a_plain_clone_of_a_live_database_is_of_one_moment(
    shop: str, dest_db: str, stack: Stack, writer: Writer
) -> None:
    """Nothing is killed here: that moment is when the copy began, whenever a table's turn comes."""
    async with stack.session() as session:
        live = Live(session, MIGRATION, shop, dest_db)
        await live.start(MigrationOptions(follow=False))
        await live.until_event("no copier is attached")
        last = scalar(shop, "SELECT max(id) FROM shop.orders")
        writer.wait_for_commits(40)
        stack.start("copier-1")
        await live.until_phase(Phase.COMPLETE)
    later = f"SELECT count(*) FROM shop.orders WHERE id > {last}"
    assert scalar(shop, later) != 0
    assert scalar(dest_db, later) == 0
    assert check_conserved_sum(dest_db) == []
    writer.stop()
    differing = compare_databases(shop, dest_db, sequences=False)
    assert [line for line in differing if not line.startswith("table ")] == [], "definitions are equal"
    behind = "SELECT max(o.id) > max(s.last_value) FROM shop.orders o, shop.orders_id_seq s"
    assert scalar(dest_db, behind) is False, "no sequence is behind the rows"


CUT = MigrationOptions(follow=True, split_tables_larger_than=32 << 10)
_PARTS_LEFT: LiteralString = """
    SELECT (split::json ->> 'parts')::int - (
        SELECT count(*) FROM pgmig.copy_part AS p
        WHERE p.epoch = t.epoch AND p.part_id LIKE '"shop"."orders" %'
    )
    FROM pgmig.copy_table AS t WHERE table_name = 'orders'"""


def all_but_one_part_copied(dest: str) -> bool:
    with psycopg.connect(dest) as conn:
        return conn.execute(_PARTS_LEFT).fetchone() == (1,)


def plan(dest: str) -> str:
    return str(scalar(dest, "SELECT epoch FROM pgmig.copy_table WHERE table_name = 'orders'"))


@contextmanager
def one_part_held_up(dest: str) -> Iterator[Gate]:
    """Whoever copies the first rows of table HELD waits for the end of the block."""
    make_gate(dest)
    execute(dest, "ALTER TABLE shop.orders ADD CONSTRAINT gated CHECK (id <> 1 OR public.gate())")
    with closed_gate(dest) as gate:
        yield gate
        gate.open()
    execute(dest, "ALTER TABLE shop.orders DROP CONSTRAINT gated", "DROP FUNCTION public.gate()")


@pytest.mark.parametrize("cut_off", [False, True], ids=["copiers hear of it", "a copier is cut off"])
async def test_a_divided_table_is_copied_again_under_a_new_snapshot(
    cut_off: bool, shop: str, dest_db: str, stack: Stack, writer: Writer
) -> None:
    async with stack.session() as session:
        live = Live(session, MIGRATION, shop, dest_db)
        await live.start(CUT)
        await live.until_phase(Phase.COPY)
        with one_part_held_up(dest_db) as gate:
            stack.start("copier-1")
            await gate.waiting()
            await live.until(all_but_held_copied)
            eventually(lambda: all_but_one_part_copied(dest_db), "all but one part")
            before, given_up = files(dest_db), plan(dest_db)
            if cut_off:
                stack.freeze("copier-1")
            stack.kill9("decoder")
            writer.wait_for_commits(40)
            stack.start("decoder", "copier-2")
            await live.until_event("the snapshot was lost")
            eventually(lambda: plan(dest_db) != given_up, "a new plan")
        if cut_off:
            stack.thaw("copier-1")
        await live.until_phase(Phase.STREAMING)
        assert files(dest_db) == before
        assert floors(stack) == {HELD}
        await live.finish(writer)


async def test_a_table_rewritten_during_its_copy_is_copied_again(
    shop: str, dest_db: str, stack: Stack, writer: Writer
) -> None:
    async with stack.session() as session:
        live = Live(session, MIGRATION, shop, dest_db)
        await live.start(CUT)
        await live.until_event("no copier is attached")
        execute(shop, "VACUUM FULL shop.orders")
        stack.start("copier-1")
        await live.until_event("shop.orders was truncated, rewritten")
        await live.until_phase(Phase.STREAMING)
        await live.finish(writer)


async def test_a_queue_that_is_lost_keeps_the_parts_that_are_copied(
    shop: str, dest_db: str, stack: Stack, nats_server: NatsServer, writer: Writer
) -> None:
    async with stack.session() as session:
        live = Live(session, MIGRATION, shop, dest_db)
        await live.start(CUT)
        await live.until_phase(Phase.COPY)
        with one_part_held_up(dest_db) as gate:
            stack.start("copier-1")
            await gate.waiting()
            eventually(lambda: all_but_one_part_copied(dest_db), "all but one part")
            async with bus(nats_server.url, "test") as client:
                await delete_queue(client, MigrationId(MIGRATION).forward)
            await live.until_event("parts are missing from the copy queue")
            assert all_but_one_part_copied(dest_db)
        await live.until_phase(Phase.STREAMING)
        assert floors(stack) == set()
        await live.finish(writer)


def floors(stack: Stack) -> set[str]:
    """Tables of which the applier skips what their later snapshot has, by the state file."""
    state = json.loads((stack.state_dir / MIGRATION / "state.json").read_text())
    tables = state["record"]["pipelines"][0]["tables"]
    return {table["table"]["name"] for table in tables if Lsn.parse(table["floor"])}
