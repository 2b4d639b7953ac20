"""Copier processes on real servers: shared work, crashes, lost acknowledgements, bounded memory."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from services.shared.bus.queue import CONSUMER, ensure_queue, publish_parts, queued
from services.shared.model import (
    AssignmentStopped,
    MigrationId,
    PartProgress,
    Unassign,
)
from tests.fakes.copier_coordinator import TIMEOUT_S, Stand, closed_gate, copier_stand, make_gate
from tests.support.copying.databases import (
    copy_schema,
    count,
    execute,
    exported_snapshot,
    keep_books,
    part,
    parts_of,
)
from tests.support.data.compare import compare_databases
from tests.support.data.schema import seed
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer

pytestmark = pytest.mark.xdist_group("heavy")

PIPELINE = MigrationId("m1").forward
SECOND = MigrationId("m2").forward
ROWS = 1000


@pytest.fixture
async def stand(source_db: str, dest_db: str, nats_server: NatsServer) -> AsyncIterator[Stand]:
    await keep_books(dest_db)
    make_gate(dest_db)
    async with copier_stand(source_db, dest_db, nats_server, "m1", "m2") as ready:
        yield ready


def make_table(stand: Stand, name: str, *, gated: bool = False) -> None:
    """ROWS rows and no key, so that a row copied twice shows."""
    execute(
        stand.source, f"CREATE TABLE {name} (a int)", f"INSERT INTO {name} SELECT generate_series(1, {ROWS})"
    )
    check = f"CHECK (a <> {ROWS // 2} OR public.gate())" if gated else ""
    execute(stand.dest, f"CREATE TABLE {name} (a int {check})")


def copying(stand: Stand) -> set[tuple[str, str]]:
    """(worker, part) of the progress reports so far."""
    reports = stand.coordinator.reports
    return {(worker, report.part_id) for worker, report in reports if isinstance(report, PartProgress)}


async def finished(stand: Stand, parts: int, *, left: int = 0) -> None:
    """Until so many parts are reported done and so many are left in the queue."""
    await stand.coordinator.until(lambda: len(stand.coordinator.done()) >= parts)
    async with asyncio.timeout(TIMEOUT_S):
        while await queued(stand.client, PIPELINE) != left:
            await asyncio.sleep(0.02)


async def test_two_copiers_share_the_tables_of_a_real_schema(
    stand: Stand, dest_server: PostgresServer
) -> None:
    execute(stand.dest, "DROP FUNCTION gate")
    seed(stand.source, 5000)
    copy_schema(dest_server.bin_dir, stand.source, stand.dest)
    with exported_snapshot(stand.source) as snapshot:
        parts = await parts_of(stand.source, snapshot)
        await publish_parts(stand.client, PIPELINE, parts)
        for worker in ("c1", "c2"):
            await stand.start(worker)
            stand.assign(worker, PIPELINE, workers=2)
        await finished(stand, len(parts))
    assert sorted(done.part_id for done in stand.coordinator.done()) == sorted(p.part_id for p in parts)
    assert stand.coordinator.failures() == []
    assert compare_databases(stand.source, stand.dest, sequences=False, definitions=False) == []


async def test_copiers_work_on_different_parts_at_the_same_time(stand: Stand) -> None:
    tables = [f"t{number}" for number in range(4)]
    for table in tables:
        make_table(stand, table, gated=True)
    with exported_snapshot(stand.source) as snapshot, closed_gate(stand.dest) as gate:
        await publish_parts(stand.client, PIPELINE, [part(t, "a", snapshot=snapshot) for t in tables])
        for worker in ("c1", "c2"):
            await stand.start(worker)
            stand.assign(worker, PIPELINE, workers=2)
        await gate.waiting(4)
        await stand.coordinator.until(lambda: len(copying(stand)) == 4)
        assert sorted(worker for worker, _ in copying(stand)) == ["c1", "c1", "c2", "c2"]
        gate.open()
        await finished(stand, 4)
    assert [count(stand.dest, table) for table in tables] == [ROWS] * 4


async def test_a_part_whose_copier_is_killed_is_finished_by_another_without_duplicates(stand: Stand) -> None:
    make_table(stand, "t", gated=True)
    with exported_snapshot(stand.source) as snapshot, closed_gate(stand.dest) as gate:
        await publish_parts(stand.client, PIPELINE, [part("t", "a", snapshot=snapshot)])
        await stand.start("c1", lease_s=1)
        stand.assign("c1", PIPELINE)
        await gate.waiting()
        await stand.kill9("c1")
        gate.open()
        await stand.start("c2", lease_s=1)
        stand.assign("c2", PIPELINE)
        await finished(stand, 1)
    assert [who for who, _ in stand.coordinator.reports][-1] == "c2"
    assert count(stand.dest, "t") == ROWS


async def test_a_part_whose_acknowledgement_was_lost_is_reported_again_and_not_touched(
    stand: Stand, nats_server: NatsServer
) -> None:
    make_table(stand, "t", gated=True)
    with exported_snapshot(stand.source) as snapshot, closed_gate(stand.dest) as gate:
        await publish_parts(stand.client, PIPELINE, [part("t", "a", snapshot=snapshot)])
        await stand.start("c1", lease_s=1)
        stand.assign("c1", PIPELINE)
        await gate.waiting()
        nats_server.kill9()
        gate.open()
        await stand.coordinator.until(lambda: len(stand.coordinator.done()) == 1)
        await stand.kill9("c1")  # with the acknowledgement that waits for the broker
        execute(stand.dest, "INSERT INTO t VALUES (0)")  # as the applier would
        await asyncio.to_thread(nats_server.start)
        await stand.start("c2", lease_s=1)
        stand.assign("c2", PIPELINE)
        await finished(stand, 2)
    first, second = stand.coordinator.done()
    assert (first.part_id, first.rows, first.bytes) == (second.part_id, second.rows, second.bytes)
    assert count(stand.dest, "t") == ROWS + 1


async def test_loss_of_the_broker_s_store_costs_only_a_new_publishing_run(
    stand: Stand, nats_server: NatsServer
) -> None:
    make_table(stand, "t", gated=True)
    make_table(stand, "u")
    with exported_snapshot(stand.source) as snapshot, closed_gate(stand.dest) as gate:
        parts = [part(name, "a", snapshot=snapshot) for name in ("t", "u")]
        await publish_parts(stand.client, PIPELINE, parts)
        await stand.start("c1")
        stand.assign("c1", PIPELINE)
        await gate.waiting()
        await asyncio.to_thread(nats_server.restart, wipe_store=True)
        gate.open()
        await stand.coordinator.until(lambda: len(stand.coordinator.done()) == 1)
        await ensure_queue(stand.client, PIPELINE)
        await publish_parts(stand.client, PIPELINE, parts)
        await finished(stand, 3)
    assert sorted(done.part_id for done in stand.coordinator.done()) == ["t", "t", "u"]
    assert [count(stand.dest, table) for table in ("t", "u")] == [ROWS, ROWS]


async def test_a_long_copy_keeps_its_lease(stand: Stand) -> None:
    make_table(stand, "t", gated=True)
    with exported_snapshot(stand.source) as snapshot, closed_gate(stand.dest) as gate:
        await publish_parts(stand.client, PIPELINE, [part("t", "a", snapshot=snapshot)])
        for worker in ("c1", "c2"):
            await stand.start(worker, lease_s=3)
            stand.assign(worker, PIPELINE)
        await gate.waiting()
        await asyncio.sleep(6.5)  # longer than the lease: that nothing happens has no event
        info = await stand.client.jetstream().consumer_info(PIPELINE.copy_stream, CONSUMER)
        assert (info.num_ack_pending, info.num_redelivered) == (1, 0)
        gate.open()
        await finished(stand, 1)
    assert len(stand.coordinator.done()) == 1


async def test_a_destination_session_that_is_cut_off_is_retried_by_the_copier(stand: Stand) -> None:
    make_table(stand, "t", gated=True)
    with exported_snapshot(stand.source) as snapshot, closed_gate(stand.dest) as gate:
        await publish_parts(stand.client, PIPELINE, [part("t", "a", snapshot=snapshot)])
        await stand.start("c1")
        stand.assign("c1", PIPELINE)
        await gate.waiting()
        execute(
            stand.dest,
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE application_name = 'pgmig destination' AND datname = current_database()",
        )
        gate.open()
        await finished(stand, 1)
    assert stand.coordinator.failures() == []
    assert count(stand.dest, "t") == ROWS


async def test_a_lost_snapshot_is_reported_and_a_new_one_finishes_the_part(stand: Stand) -> None:
    make_table(stand, "t")
    with exported_snapshot(stand.source) as gone:
        pass
    await stand.start("c1")
    key = stand.assign("c1", PIPELINE)
    await publish_parts(stand.client, PIPELINE, [part("t", "a", snapshot=gone)])
    await stand.coordinator.until(lambda: bool(stand.coordinator.failures()))
    (failure,) = stand.coordinator.failures()
    assert (failure.assignment_id, failure.kind, failure.part_id) == (key, "SNAPSHOT_LOST", "t")
    with exported_snapshot(stand.source) as snapshot:
        await publish_parts(stand.client, PIPELINE, [part("t", "a", snapshot=snapshot)])
        await finished(stand, 1)
    assert count(stand.dest, "t") == ROWS


async def test_a_part_that_cannot_be_copied_fails_alone(stand: Stand) -> None:
    make_table(stand, "good")
    execute(stand.source, "CREATE TABLE bad (a text)", "INSERT INTO bad VALUES ('secret')")
    execute(stand.dest, "CREATE TABLE bad (a int)")
    with exported_snapshot(stand.source) as snapshot:
        parts = [part(name, "a", snapshot=snapshot) for name in ("bad", "good")]
        await publish_parts(stand.client, PIPELINE, parts)
        await stand.start("c1")
        stand.assign("c1", PIPELINE)
        await finished(stand, 1, left=1)  # what failed comes back, should the cause be cured
    (failure,) = stand.coordinator.failures()
    assert (failure.kind, failure.part_id) == ("COPY_FAILED", "bad")
    assert "public.bad" in failure.message
    assert "secret" not in failure.message
    assert count(stand.dest, "good") == ROWS


async def test_unassign_stops_at_once_rolls_back_and_gives_the_part_back(stand: Stand) -> None:
    make_table(stand, "t", gated=True)
    with exported_snapshot(stand.source) as snapshot, closed_gate(stand.dest) as gate:
        await publish_parts(stand.client, PIPELINE, [part("t", "a", snapshot=snapshot)])
        for worker in ("c1", "c2"):
            await stand.start(worker)
        key = stand.assign("c1", PIPELINE)
        await gate.waiting()
        stand.coordinator.sends["c1"](Unassign(key))
        await stand.coordinator.until(lambda: ("c1", AssignmentStopped(key)) in stand.coordinator.reports)
        gate.open()
        stand.assign("c2", PIPELINE)
        await finished(stand, 1)
    assert count(stand.dest, "t") == ROWS


async def test_sigterm_ends_the_copier_cleanly_and_gives_the_part_back(stand: Stand) -> None:
    make_table(stand, "t", gated=True)
    with exported_snapshot(stand.source) as snapshot, closed_gate(stand.dest) as gate:
        await publish_parts(stand.client, PIPELINE, [part("t", "a", snapshot=snapshot)])
        await stand.start("c1")
        stand.assign("c1", PIPELINE)
        await gate.waiting()
        stand.processes["c1"].send_signal(signal.SIGTERM)
        assert await stand.ended("c1") == 0
        gate.open()
        await stand.start("c2")
        stand.assign("c2", PIPELINE)
        await finished(stand, 1)
    assert count(stand.dest, "t") == ROWS


async def test_one_copier_works_for_two_migrations(stand: Stand) -> None:
    make_table(stand, "t")
    make_table(stand, "u")
    with exported_snapshot(stand.source) as snapshot:
        await publish_parts(stand.client, PIPELINE, [part("t", "a", snapshot=snapshot)])
        await publish_parts(stand.client, SECOND, [part("u", "a", snapshot=snapshot)])
        await stand.start("c1")
        keys = [stand.assign("c1", migration) for migration in (PIPELINE, SECOND)]
        await finished(stand, 2)
    assert {(done.assignment_id, done.part_id) for done in stand.coordinator.done()} == {
        (keys[0], "t"),
        (keys[1], "u"),
    }


async def test_progress_has_rows_and_bytes(stand: Stand) -> None:
    make_table(stand, "t", gated=True)
    with exported_snapshot(stand.source) as snapshot, closed_gate(stand.dest) as gate:
        await publish_parts(stand.client, PIPELINE, [part("t", "a", snapshot=snapshot)])
        await stand.start("c1")
        stand.assign("c1", PIPELINE)
        await gate.waiting()
        await stand.coordinator.until(lambda: bool(copying(stand)))
        gate.open()
        await finished(stand, 1)
    (done,) = stand.coordinator.done()
    seen = [report for _, report in stand.coordinator.reports if isinstance(report, PartProgress)]
    assert 0 < seen[0].rows <= done.rows == ROWS
    assert 0 < seen[0].bytes <= done.bytes
