"""Two databases that replicate to each other, with appliers that look for conflicts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.shared.bus.connection import Client
from services.shared.model import MigrationId, PipelineId, TableId
from services.shared.model.conflicts.policy import Conflict, OnConflict
from services.shared.pg.bidirectional.deletions import record_deletions
from services.shared.pg.bookkeeping.conflicts import read_conflicts
from services.shared.pg.session.connection import connection
from tests.support.pipeline.back import prepared, running
from tests.support.pipeline.in_process import Pipeline, rows, run

SETTINGS = {"track_commit_timestamp": "on"}
MIGRATION = MigrationId("both")


@dataclass
class BothWays:
    """here, there: the URIs of the migration's source and destination."""

    here: str
    there: str
    forward: Pipeline
    reverse: Pipeline
    drained: int = 0

    async def settle(self) -> None:
        """Wait until each side has what the other has committed so far."""
        self.drained += 1
        await self.forward.drain(f"forward {self.drained}")
        await self.reverse.drain(f"reverse {self.drained}")

    async def conflicts(self, pipeline: PipelineId) -> list[Conflict]:
        """Those that the applier of the pipeline has recorded, the oldest first."""
        uri = self.there if pipeline == MIGRATION.forward else self.here
        async with connection(uri, "test") as conn:
            return list(reversed(await read_conflicts(conn, pipeline, 10_000)))


def now_us(uri: str) -> int:
    """By the server's clock, in microseconds since the Unix epoch."""
    ((now,),) = rows(uri, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8")
    assert isinstance(now, int)
    return now


@asynccontextmanager
async def both_ways(
    here: str, there: str, client: Client, ddl: str, policy: OnConflict, *tables: str
) -> AsyncIterator[BothWays]:
    """ddl: of both databases, which are equal then."""
    for uri in (here, there):
        run(uri, ddl)
    forth = await prepared(here, there, MIGRATION.forward, local_only=True)
    back = await prepared(there, here, MIGRATION.reverse, local_only=True)
    names = [TableId("public", table) for table in tables]
    for uri, pipeline in ((there, MIGRATION.forward), (here, MIGRATION.reverse)):
        async with connection(uri, "test") as conn:
            await record_deletions(conn, pipeline, names)
    async with (
        running(
            here,
            there,
            client,
            MIGRATION.forward,
            forth,
            local_only=True,
            on_conflict=policy,
            seen_us=now_us(there),
        ) as forward,
        running(
            there,
            here,
            client,
            MIGRATION.reverse,
            back,
            local_only=True,
            on_conflict=policy,
            seen_us=now_us(here),
        ) as reverse,
    ):
        yield BothWays(here, there, forward, reverse)
