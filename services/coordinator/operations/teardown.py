"""Removes what a migration created on both servers and in NATS. Everything is idempotent.

Another coordinator may have taken the migration over, and run it now. So each removal begins with a
compare-and-set of the record in the store. If another coordinator has written it, nothing more is removed
(FENCED), with `--force` too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from services.coordinator.migration.state import Migration
from services.coordinator.operations.undo import thaw_recorded
from services.coordinator.pipeline.files import Files
from services.coordinator.pipeline.guarding import lift, needed, still_watched, unwatch, unwatch_soon
from services.coordinator.pipeline.parts import Context
from services.shared.bus.connection import Client
from services.shared.bus.store import delete_stream
from services.shared.model import CleanupResult, Direction, ErrorKind, MigrationPhase, PgmigError
from services.shared.pg.bookkeeping.schema import drop_bookkeeping, steps_done
from services.shared.pg.freeze.thaw import SETTING
from services.shared.pg.reverse.remove import not_both, remove_from_subscriber
from services.shared.pg.session.connection import connection
from services.shared.pg.teardown import remove_from_source, remove_origin

Removal = Callable[[], Awaitable[list[str]]]
"""Returns a line for each thing removed."""

UNPROVEN = (
    "it could not be proven that no other coordinator runs this migration. Check that the slot, the origin "
    "and the streams of the migration are not in use"
)
RETURNS = "a coordinator that starts finds it and continues the migration: clean up again then"
FREEZE = "the freeze"
LEFT_READ_ONLY = "the read-only default of the side that was left"
_REPLACED = frozenset({MigrationPhase.SWITCHED_OVER, MigrationPhase.REVERSE, MigrationPhase.ROLLBACK})
"""The source may stay closed, or read-only: the destination has replaced it."""
LEAVE = "`pgmig-cli cleanup --force --id {id}` removes the rest, except what cannot be reached"


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is removed, on which side of the migration ("source", "destination", "NATS"), and how."""

    things: str
    side: str
    remove: Removal


async def thaw_first(contexts: Sequence[Context], bus: Client) -> list[str]:
    """Undo the freeze that a switchover has left, so that a migration can be ended. Nothing else is removed.
    Raises what prevents it, FENCED included. contexts: as for `remove_replication`."""
    removed: list[str] = []
    for piece in [piece for context in contexts for piece in _of_pipeline(context, bus, _origin)]:
        if piece.things == FREEZE:
            await contexts[0].journal.confirm()
            removed += await _or_explained(contexts[0].migration, piece.remove)
    return removed


async def remove_replication(contexts: Sequence[Context], bus: Client) -> CleanupResult:
    """Slot and publication, origin, streams of each pipeline, after `thaw_first`. The migration is recorded
    as aborted: what cannot be removed is left to `cleanup`. Raises FENCED when another coordinator has taken
    over.

    contexts: of all pipelines of a migration, the forward one first.
    """
    pieces = _opened_first([piece for each in contexts for piece in _of_pipeline(each, bus, _origin)])
    removed: list[str] = []
    left: list[str] = []
    for piece in pieces:
        try:
            await contexts[0].journal.confirm()
            removed += await piece.remove()
        except PgmigError as exc:
            if exc.kind is ErrorKind.FENCED:
                raise
            left.append(_line(piece, exc))
    return CleanupResult(tuple(removed), tuple(left))


def _opened_first(pieces: Sequence[_Piece]) -> list[_Piece]:
    """A database that accepts no connections is opened before anything else is removed from it."""
    return sorted(pieces, key=lambda piece: piece.things not in {FREEZE, LEFT_READ_ONLY})


async def _or_explained(migration: Migration, removal: Removal) -> list[str]:
    """Run the removal. Its error says what the operator can do."""
    try:
        return await removal()
    except PgmigError as exc:
        if exc.kind is ErrorKind.FENCED:
            raise
        way = LEAVE.format(id=migration.id)
        hint = f"{exc.hint}; {way}" if exc.hint else way
        raise PgmigError(exc.kind, exc.message, hint, exc.lsn) from exc


def _line(piece: _Piece, why: PgmigError) -> str:
    place = "in NATS" if piece.side == "NATS" else f"on the {piece.side}"
    return f"{piece.things} {place}: {why.message}"


async def remove_all(
    contexts: Sequence[Context], files: Files, bus: Client, refused: dict[str, PgmigError], *, force: bool
) -> CleanupResult:
    """Everything, the state last. Raises FENCED when another coordinator has taken over.

    What is on a server that cannot be reached is left. Then the state is kept, so that this can be called
    again, unless `force` is given. force: any error only leaves what it is about. It is also reported if the
    store could not be asked. contexts: of all pipelines of the migration, the forward one first. refused: by
    side of the migration, why a given connection string is not used.
    """
    context = contexts[0]
    removed: list[str] = []
    left: list[str] = []
    unproven: PgmigError | None = None

    async def remove(piece: _Piece) -> None:
        nonlocal unproven
        try:
            unproven = await check_ours(context, force=force) if unproven is None else unproven
            removed.extend(await _or_explained(context.migration, piece.remove))
        except PgmigError as exc:
            if exc.kind is ErrorKind.FENCED or not (force or exc.kind is ErrorKind.UNREACHABLE):
                raise
            why = refused.get(piece.side) if exc.kind is ErrorKind.CREDENTIALS_NEEDED else None
            left.append(_line(piece, why or exc))

    pieces = [piece for each in contexts for piece in _of_pipeline(each, bus, _destination, force=force)]
    for piece in _opened_first(pieces):
        await remove(piece)
    if left and not force:
        return CleanupResult(tuple(removed), tuple(left))
    await remove(_Piece(f"the state ({RETURNS})", "NATS", partial(_forget, context)))
    if unproven is not None:
        left.append(f"{UNPROVEN}: {unproven.message}")
    context.migration.remove()
    await context.journal.close()
    return CleanupResult((*removed, *files.remove()), tuple(left))


def _of_pipeline(
    context: Context,
    bus: Client,
    at_destination: Callable[[Context], Awaitable[list[str]]],
    *,
    force: bool = False,
) -> tuple[_Piece, ...]:
    """at_destination: removes what is on its destination."""
    names, sides = context.pipeline.id, ("source", "destination")
    source, destination = sides if names.direction is Direction.FORWARD else sides[::-1]
    bookkeeping = " and bookkeeping" if at_destination is _destination else ""
    open_destination = _guard if at_destination is _destination else _opened
    return (
        _Piece(_frozen(context), source, partial(_freeze, context)),
        _Piece(
            f"replication slot {names.slot} and publication {names.publication}",
            source,
            partial(_source, context, force=force),
        ),
        _Piece(_guarded(context), destination, partial(open_destination, context)),
        _Piece(
            f"replication origin {names.origin}{bookkeeping}", destination, partial(at_destination, context)
        ),
        _Piece("the streams", "NATS", partial(_streams, context, bus)),
    )


async def check_ours(context: Context, *, force: bool) -> PgmigError | None:
    """Raises FENCED when another coordinator has taken the migration over, and BROKER when the store cannot
    be reached. force: returns BROKER instead of raising it."""
    unproven = await context.journal.check_ours()
    if unproven is not None and not force:
        raise unproven
    return unproven


async def _freeze(context: Context) -> list[str]:
    """Open the pipeline's source, unless it is the old one of a decided switchover."""
    record, direction = context.migration.record, context.pipeline.id.direction
    if context.pipeline.freeze is None or (
        direction is Direction.FORWARD and record.phase in _REPLACED and record.switchover is not None
    ):
        return []
    thawed = await thaw_recorded(context, await context.credentials.known_source())
    context.migration.thawed(direction)
    return [f"the freeze of the {context.pipeline.id.publisher}"] if thawed else []


async def _source(context: Context, *, force: bool = False) -> list[str]:
    uri = await context.credentials.known_source()
    record, pipeline = context.migration.record, context.pipeline.record
    frozen = context.pipeline.freeze
    forward = context.pipeline.id.direction is Direction.FORWARD
    late = forward and record.phase is MigrationPhase.SWITCHED_OVER and not record.finalized and not force
    removed = await remove_from_source(
        uri,
        context.pipeline.id,
        inserts_only=bool(pipeline.inserts_only),
        altered=pipeline.altered,
        database=frozen.database if frozen else "",
        door=frozen.door if frozen else "",
        after=record.switchover.sentinel_lsn if record.switchover and late else None,
        side=context.pipeline.id.publisher,
    )
    context.pipeline.identities_put_back()
    return removed


def _frozen(context: Context) -> str:
    """What a freeze of the pipeline's source is. That of the side that was left keeps nobody from working."""
    works = context.pipeline.id.direction is context.migration.record.active
    return FREEZE if works else LEFT_READ_ONLY


def _guarded(context: Context) -> str:
    known = context.pipeline.record.guard
    undo = f" (ALTER DATABASE {known.database} RESET {SETTING})" if known is not None else ""
    return f"the read-only default{undo}"


async def _opened(context: Context) -> list[str]:
    """The migration has ended: triggers on tables that others have locked are dropped later."""
    lifted = await lift(context)
    await unwatch_soon(context)
    return ["the read-only default of the destination"] if lifted else []


async def _guard(context: Context) -> list[str]:
    """Raises TRANSIENT if others have locked tables with a trigger."""
    if not needed(context.pipeline):
        return []
    lifted = await lift(context)
    if left := await unwatch(context):
        raise PgmigError(
            ErrorKind.TRANSIENT,
            still_watched(context.pipeline, left),
            "end the transactions that lock them, then clean up again",
        )
    return ["the read-only default of the destination"] if lifted else []


async def _of_reverse(context: Context) -> list[str]:
    """What the pipeline back has left on the source, which the last switchover may have closed."""
    uri, closed = await context.credentials.known_destination(), context.migration.record.freeze
    return await remove_from_subscriber(
        uri,
        context.pipeline.id,
        database=closed.database if closed else "",
        door=closed.door if closed else "",
    )


async def _destination(context: Context) -> list[str]:
    if context.pipeline.id.direction is Direction.REVERSE:
        return await _of_reverse(context)
    return [*await _origin(context), *await _bookkeeping(context)]


async def _origin(context: Context) -> list[str]:
    if context.pipeline.id.direction is Direction.REVERSE:
        return await _of_reverse(context)
    uri = await context.credentials.known_destination()
    if context.migration.record.options.bidirectional:
        await not_both(uri, context.pipeline.id)
    return await remove_origin(uri, context.pipeline.id)


async def _bookkeeping(context: Context) -> list[str]:
    uri, key = await context.credentials.known_destination(), context.pipeline.id
    async with connection(uri, "destination") as conn:
        known = await steps_done(conn, key)
        await drop_bookkeeping(conn, key)
    return [f"bookkeeping on the {key.subscriber}"] if known else []


async def _streams(context: Context, bus: Client) -> list[str]:
    names = context.pipeline.id
    streams = (names.change_stream, names.copy_stream)
    return [f"stream {name} in NATS" for name in streams if await delete_stream(bus, name)]


async def _forget(context: Context) -> list[str]:
    return ["state in NATS"] if await context.journal.forget() else []
