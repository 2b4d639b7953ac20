"""Conflicts that were recorded on both servers, as one report."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.coordinator.operations.conflict_report import conflict_report
from services.coordinator.pipeline.credentials import Credentials
from services.shared.model import Direction, ErrorKind, Lsn, MigrationId, PgmigError, TableId
from services.shared.model.conflicts.policy import Conflict, ConflictKind, Decision
from services.shared.model.view.conflicts import ConflictCount, KeyValue
from services.shared.pg.bookkeeping.conflicts import record_stopped
from services.shared.pg.bookkeeping.schema import drop_bookkeeping, ensure_bookkeeping
from services.shared.pg.session.connection import connection

MIGRATION = MigrationId("m")
STOPPED = Conflict(
    TableId("app", "Orders"),
    ConflictKind.UPDATE_MISSING,
    Decision.STOPPED,
    (("id", "7"), ("a, b", "{\"\\'")),
    Lsn(2**63 + 5),
    1_700_000_000.123456,
)


async def test_a_report_has_the_conflicts_of_both_servers(source_db: str, dest_db: str) -> None:
    uris = Credentials(source_db, dest_db)
    assert await conflict_report(MIGRATION, uris, 0) == await conflict_report(MIGRATION, uris, 5)
    for uri, pipeline in ((source_db, MIGRATION.reverse), (dest_db, MIGRATION.forward)):
        async with connection(uri, "test") as conn:
            await ensure_bookkeeping(conn)
            await record_stopped(conn, pipeline, STOPPED)
            await record_stopped(conn, pipeline, STOPPED)  # the applier stops there again
            await record_stopped(conn, pipeline, replace(STOPPED, lsn=Lsn(9), local_at=1.5))
    report = await conflict_report(MIGRATION, uris, 0)
    kind, decision = STOPPED.kind, STOPPED.decision
    assert report.counts == tuple(ConflictCount(direction, kind, decision, 2) for direction in Direction)
    assert [one.direction for one in report.conflicts] == [Direction.FORWARD] * 2 + [Direction.REVERSE] * 2
    newest, oldest = report.conflicts[0], report.conflicts[1]
    assert (newest.lsn, newest.local_at) == (Lsn(9), 1.5)
    assert (oldest.lsn, oldest.table, oldest.local_at) == (STOPPED.lsn, STOPPED.table, 0.0)
    assert oldest.remote_at == pytest.approx(STOPPED.remote_at)
    assert oldest.key == tuple(KeyValue(*pair) for pair in STOPPED.key)
    assert newest.resolved_at > oldest.resolved_at > newest.remote_at
    assert len((await conflict_report(MIGRATION, uris, 1)).conflicts) == 1
    async with connection(dest_db, "test") as conn:
        await drop_bookkeeping(conn, MIGRATION.forward)
    assert {one.direction for one in (await conflict_report(MIGRATION, uris, 0)).conflicts} == {
        Direction.REVERSE
    }


async def test_without_passwords_the_servers_cannot_be_asked() -> None:
    with pytest.raises(PgmigError) as caught:
        await conflict_report(MIGRATION, Credentials(), 0)
    assert caught.value.kind is ErrorKind.CREDENTIALS_NEEDED
