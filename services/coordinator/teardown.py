"""Taking away what a migration made on both servers and in NATS. Everything is idempotent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from services.coordinator.pipeline import Pipeline
from services.shared.bus.store import delete_stream
from services.shared.model import PgmigError
from services.shared.pg.bookkeeping import drop_bookkeeping, steps_done
from services.shared.pg.connection import connection
from services.shared.pg.leftovers import remove_from_source, remove_origin

Removal = Callable[[Pipeline], Awaitable[list[str]]]
"""Returns a line for each thing removed."""


async def remove_replication(pipeline: Pipeline) -> list[str]:
    """Slot and publication, origin, and the streams."""
    return [line for removal in (_source, _origin, _streams) for line in await removal(pipeline)]


async def remove_all(pipeline: Pipeline, *, force: bool) -> list[str]:
    """Everything, the state last. force: what cannot be removed is told and left behind."""
    removed: list[str] = []
    for removal in (_source, _origin, _bookkeeping, _streams):
        try:
            removed += await removal(pipeline)
        except PgmigError as exc:
            if not force:
                raise
            removed.append(f"NOT removed: {exc}")
    return removed + await _state(pipeline)


async def _source(pipeline: Pipeline) -> list[str]:
    uris = await pipeline.known_credentials()
    record = pipeline.migration.record
    removed = await remove_from_source(
        uris.source_uri,
        pipeline.migration.id,
        inserts_only=bool(record.inserts_only),
        altered=record.altered,
    )
    pipeline.migration.update(altered=())  # what becomes of them from now on is not ours
    return removed


async def _origin(pipeline: Pipeline) -> list[str]:
    uris = await pipeline.known_credentials()
    return await remove_origin(uris.destination_uri, pipeline.migration.id)


async def _bookkeeping(pipeline: Pipeline) -> list[str]:
    uris, key = await pipeline.known_credentials(), pipeline.migration.record.migration_id
    async with connection(uris.destination_uri, "destination") as conn:
        known = await steps_done(conn, key)
        await drop_bookkeeping(conn, key)
    return ["bookkeeping on the destination"] if known else []


async def _streams(pipeline: Pipeline) -> list[str]:
    migration = pipeline.migration.id
    streams = (migration.change_stream, migration.copy_stream)
    return [f"stream {name} in NATS" for name in streams if await delete_stream(pipeline.bus, name)]


async def _state(pipeline: Pipeline) -> list[str]:
    pipeline.migration.remove()
    await pipeline.journal.close()
    removed = ["state in NATS"] if await pipeline.journal.forget() else []
    return removed + pipeline.forget_files()
