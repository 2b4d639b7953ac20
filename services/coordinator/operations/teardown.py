"""Taking away what a migration made on both servers and in NATS. Everything is idempotent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from services.coordinator.pipeline.pipeline import Pipeline
from services.shared.bus.store import delete_stream
from services.shared.model import CleanupResult, ErrorKind, PgmigError
from services.shared.pg.bookkeeping.schema import drop_bookkeeping, steps_done
from services.shared.pg.freeze.thaw import thaw
from services.shared.pg.session.connection import connection
from services.shared.pg.teardown import remove_from_source, remove_origin

Removal = Callable[[Pipeline], Awaitable[list[str]]]
"""Returns a line for each thing removed."""

LEAVE = "`pgmig-cli cleanup --force --id {id}` removes the rest, and leaves behind what cannot be reached"


async def remove_replication(pipeline: Pipeline) -> list[str]:
    """Slot and publication, origin, and the streams."""
    removals = (_source, _origin, _streams)
    return [line for removal in removals for line in await _or_explained(pipeline, removal)]


async def _or_explained(pipeline: Pipeline, removal: Removal) -> list[str]:
    """The removal, whose error names the way out."""
    try:
        return await removal(pipeline)
    except PgmigError as exc:
        way = LEAVE.format(id=pipeline.migration.id)
        hint = f"{exc.hint}; {way}" if exc.hint else way
        raise PgmigError(exc.kind, exc.message, hint, exc.lsn) from exc


async def remove_all(pipeline: Pipeline, refused: dict[str, PgmigError], *, force: bool) -> CleanupResult:
    """Everything, the state last. force: what cannot be removed is reported and left behind.

    refused: by side, why a given connection string is not used.
    """
    migration = pipeline.migration.id
    source = partial(_source, force=force)
    removals: tuple[tuple[str, str, Removal], ...] = (
        (
            f"replication slot {migration.slot} and publication {migration.publication}",
            "source",
            source,
        ),
        (f"replication origin {migration.origin} and bookkeeping", "destination", _destination),
        ("the streams", "NATS", _streams),
    )
    removed: list[str] = []
    left: list[str] = []
    for things, side, removal in removals:
        try:
            removed += await _or_explained(pipeline, removal)
        except PgmigError as exc:
            if not force:
                raise
            why = refused.get(side) if exc.kind is ErrorKind.CREDENTIALS_NEEDED else None
            place = "in NATS" if side == "NATS" else f"on the {side}"
            left.append(f"{things} {place}: {(why or exc).message}")
    return CleanupResult((*removed, *await _state(pipeline)), tuple(left))


async def _source(pipeline: Pipeline, *, force: bool = False) -> list[str]:
    uri = await pipeline.credentials.known_source()
    record = pipeline.migration.record
    frozen = record.freeze
    removed = []
    if frozen is not None and record.switchover is None:  # it was not decided, and could not be undone
        if await thaw(uri, frozen):
            removed.append("the freeze of the source")
        pipeline.migration.thawed()
    removed += await remove_from_source(
        uri,
        pipeline.migration.id,
        inserts_only=bool(record.inserts_only),
        altered=record.altered,
        database=frozen.database if frozen else "",
        door=frozen.door if frozen else "",
        after=record.switchover.sentinel_lsn if record.switchover and not force else None,
    )
    pipeline.migration.identities_put_back()
    return removed


async def _destination(pipeline: Pipeline) -> list[str]:
    return [*await _origin(pipeline), *await _bookkeeping(pipeline)]


async def _origin(pipeline: Pipeline) -> list[str]:
    return await remove_origin(await pipeline.credentials.known_destination(), pipeline.migration.id)


async def _bookkeeping(pipeline: Pipeline) -> list[str]:
    uri, key = await pipeline.credentials.known_destination(), pipeline.migration.record.migration_id
    async with connection(uri, "destination") as conn:
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
    return removed + pipeline.files.remove()
