"""Whole migrations through the control API, with the real services as processes."""

from __future__ import annotations

from pathlib import Path

from services.shared.model import MigrationOptions, Phase, StepState, SwitchoverStep
from tests.support.data.compare import compare_databases
from tests.support.data.schema import seed
from tests.support.data.workload import Writer, check_conserved_sum, check_markers
from tests.support.preflight import traces
from tests.support.servers.door import reopen
from tests.support.servers.nats import NatsServer
from tests.support.services.services import Services, until_phase


async def test_clone_that_does_not_follow_ends_complete_and_leaves_the_source_alone(
    source_db: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    seed(source_db, 5_000)
    before = traces(source_db)
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            await session.start("plain", source_db, dest_db, MigrationOptions(follow=False))
            view = await until_phase(session, "plain", Phase.COMPLETE)
            assert traces(source_db) == before
            assert compare_databases(source_db, dest_db) == []
            assert view.indexes.total == view.indexes.done > 0
            removed = (await session.cleanup("plain")).removed
            assert any("bookkeeping" in line for line in removed)
    assert "pgmig" not in {row[0] for row in traces(dest_db)}


async def test_follow_and_switch_over_lose_nothing(
    source_db: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    seed(source_db, 20_000)
    before = traces(source_db)
    with Services(nats_server, tmp_path) as services, Writer(source_db, rate=100) as writer:
        async with services.session() as session:
            await session.start("live", source_db, dest_db, MigrationOptions(follow=True))
            await until_phase(session, "live", Phase.STREAMING)
            writer.wait_for_commits(100)
            steps: list[SwitchoverStep] = [step async for step in session.switchover("live", 30.0)]
            report = writer.wait_until_cut_off()
            view = await until_phase(session, "live", Phase.SWITCHED_OVER)
            assert compare_databases(source_db, dest_db) == []
            assert check_conserved_sum(dest_db) == []
            assert check_markers(dest_db, report) == []
            done = [step.name for step in steps if step.state == StepState.DONE]
            assert done == ["freeze", "sentinel", "drain", "close", "sequences", "verify", "commit"]
            assert view.switchover is not None
            assert 0 < view.switchover.write_downtime_ms < 15_000
            await session.cleanup("live")
    left = [row for row in traces(reopen(source_db)) if row not in before]
    assert left == [(["default_transaction_read_only=on"],)]
