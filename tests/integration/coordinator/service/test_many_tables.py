"""A real coordinator with a record of 10,000 tables, as large as they come: its memory, and its broker's
default limit of 1 MiB for a message."""

from __future__ import annotations

import hashlib
from contextlib import aclosing
from pathlib import Path

import pytest

from clients.session import Session
from services.coordinator.migration.record import Record, SlotRecord, TableRecord, pack
from services.coordinator.migration.state import Migration
from services.coordinator.migration.state_file import NAME, folder, write_state
from services.coordinator.migration.views import view_of
from services.shared.model import (
    Endpoint,
    IdentityBefore,
    Lsn,
    MigrationOptions,
    MigrationView,
    Phase,
    PipelineState,
    ReplicaIdentity,
    TableId,
)
from tests.bench.processes import peak_mb
from tests.support.records import make_record
from tests.support.servers.nats import NatsServer
from tests.support.services.services import Services

pytestmark = pytest.mark.xdist_group("heavy")

TABLES = 10_000
CAP_MB = 300
DEFAULT_MAX_PAYLOAD = 1024 * 1024
WATCHERS = 3


def full_record() -> Record:
    """Paused while it followed; names that do not compress, every list filled."""
    names = [hashlib.sha256(b"%d" % number).hexdigest()[:56] for number in range(TABLES)]
    tables = [TableId("inventory", f"t_{name}") for name in names]
    return make_record(
        migration_id="m",
        revision=7,
        phase=Phase.PAUSED,
        options=MigrationOptions(follow=True),
        source=Endpoint("source.example", 5432, "db", "pgmig", 170004),
        destination=Endpoint("destination.example", 5432, "db", "pgmig", 180001),
        created_at=1.5,
        phase_since=2.5,
        resume_state=PipelineState.CATCHUP,
        slot=SlotRecord(Lsn(1), "6943", 1),
        published=tuple(tables),
        altered=tuple(IdentityBefore(table, ReplicaIdentity.DEFAULT) for table in tables),
        tables=tuple(
            TableRecord(table, 10 * number, 8192 * number, True, 10 * number, 700 * number, Lsn(number))
            for number, table in enumerate(tables)
        ),
    )


async def views(session: Session, number: int) -> list[MigrationView]:
    """The first of as many watches, all open at the same time."""
    async with aclosing(session.watch("m")) as watch:
        return [await anext(watch), *(await views(session, number - 1) if number > 1 else [])]


async def test_a_coordinator_with_ten_thousand_tables_stays_small(tmp_path: Path) -> None:
    record = full_record()
    assert len(pack(record)) > DEFAULT_MAX_PAYLOAD
    with NatsServer(max_payload=DEFAULT_MAX_PAYLOAD) as nats:
        services = Services(nats, tmp_path, workers=())
        write_state(services.state_dir, record, view_of(Migration(record, lambda _: ())))
        with services:
            assert services.stop("coordinator") == 0  # it leaves all that it knows in the store
            (folder(services.state_dir, "m") / NAME).unlink()
            services.start("coordinator")
            async with services.session() as session:
                for view in await views(session, WATCHERS):
                    assert [table.table for table in view.tables] == list(record.forward.published)
                    assert view.phase is Phase.PAUSED
            assert peak_mb(services.pid("coordinator")) < CAP_MB
