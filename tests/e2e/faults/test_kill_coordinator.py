"""kill -9 of the coordinator in every phase before the stream: the migration continues by itself."""

from __future__ import annotations

from pathlib import Path

import psycopg

from services.shared.model import Phase, TableState
from tests.support.data.workload import Writer
from tests.support.migrations.live import Live, all_but_held_copied, held_up
from tests.support.migrations.stack import COORDINATOR, Stack
from tests.support.servers.nats import NatsServer

MIGRATION = "orphan"


async def test_killed_in_schema_copy_and_indexes(
    shop: str, dest_db: str, nats_server: NatsServer, tmp_path: Path, writer: Writer
) -> None:
    uris = {"PGMIG_SOURCE_URI": shop, "PGMIG_DEST_URI": dest_db}
    with Stack(nats_server, tmp_path, workers=("decoder", "applier"), settings=uris) as stack:
        async with stack.session() as session:
            live = Live(session, MIGRATION, shop, dest_db)
            with psycopg.connect(dest_db) as blocker:
                # Restoring the schema waits for whether this name will be taken. It will not.
                blocker.execute("CREATE SCHEMA shop")
                await live.start()
                await live.until(lambda view: bool(view.tables))
                stack.restart(COORDINATOR)
                await live.until_phase(Phase.SCHEMA)
                blocker.rollback()
            await live.until_phase(Phase.COPY)
            stack.restart(COORDINATOR)
            view = await live.until_phase(Phase.COPY)
            assert {table.state for table in view.tables} == {TableState.WAITING}
            with psycopg.connect(dest_db) as blocker:
                with held_up(dest_db):
                    stack.start("copier-1")
                    await live.until(all_but_held_copied)
                    # Whoever builds an index waits for it.
                    blocker.execute("LOCK TABLE shop.accounts IN ROW EXCLUSIVE MODE")
                await live.until(lambda view: view.indexes.done > 0)
                stack.restart(COORDINATOR)
                await live.until_phase(Phase.INDEXES)
            await live.finish(writer)
