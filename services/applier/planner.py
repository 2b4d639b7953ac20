"""Assembled items in, chunks of steps out.

A chunk is a whole transaction, or a part of one that is too large to hold: then later chunks
go on, and the one that ends it has `end`. The destination commits only where a chunk ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from opentelemetry.context import Context

from services.applier.assembler import Discard, Heartbeat, Item
from services.applier.compact import DELETE, INSERT, UPDATE, Change, Step, Truncation
from services.shared.model import MESSAGE_PREFIX, ErrorKind, Lsn, MigrationId, PgmigError, TableId
from services.shared.pg.target import TargetTable
from services.shared.pgoutput import Begin, Commit, Delete, Insert, Message, Relation, Truncate, Update

CHUNK_STEPS = 5000
CHUNK_BYTES = 2 << 20

Describe = Callable[[Relation, Lsn], Awaitable[TargetTable]]


@dataclass(slots=True)
class Chunk:
    """commit_lsn: of the transaction that it belongs to. end: set when the transaction ends here.

    sequence: of the stream message that was read last. discard: void what was begun. error: the
    plan cannot go on; raised when everything before has been applied.
    """

    commit_lsn: Lsn
    steps: list[Step] = field(default_factory=list)
    bytes: int = 0
    end: Lsn | None = None
    commit_time_us: int = 0
    sentinels: list[str] = field(default_factory=list)
    sequence: int = 0
    discard: bool = False
    heartbeat: bool = False
    error: PgmigError | None = None
    trace: Context | None = None


class Planner:
    """Turns one stream's items into chunks; keeps the relations that it has met."""

    def __init__(self, migration: MigrationId, describe: Describe, floors: dict[TableId, Lsn]) -> None:
        self._sentinel_prefix = f"{migration}:"
        self._describe = describe
        self._floors = floors
        self._relations: dict[int, Relation] = {}
        self._targets: dict[int, TargetTable] = {}
        self._chunk = Chunk(Lsn(0))

    async def plan(
        self, items: Iterable[Item], *, size: int = 0, sequence: int = 0, trace: Context | None = None
    ) -> list[Chunk]:
        """Chunks completed by the items of one batch of `size` bytes. An error is the last chunk."""
        chunks: list[Chunk] = []
        try:
            for item in items:
                if isinstance(item, (Insert, Update, Delete)):
                    await self._row(item)
                    chunk = self._cut() if len(self._chunk.steps) >= CHUNK_STEPS else None
                else:
                    chunk = self._other(item)
                if chunk is not None:
                    chunk.sequence, chunk.trace = sequence, trace
                    chunks.append(chunk)
        except PgmigError as exc:
            return [*chunks, Chunk(self._chunk.commit_lsn, error=exc)]
        self._share_size(chunks, size)
        if self._chunk.bytes >= CHUNK_BYTES and self._chunk.steps:
            chunks.append(self._cut())
        return chunks

    def _share_size(self, chunks: list[Chunk], size: int) -> None:
        """A batch's size falls to the chunks that took its rows, the open one included."""
        shares = [*chunks, self._chunk]
        total = sum(len(chunk.steps) for chunk in shares) or 1
        for chunk in shares:
            chunk.bytes += size * len(chunk.steps) // total

    async def _row(self, change: Insert | Update | Delete) -> None:
        target = self._targets.get(change.relation_oid) or await self._target(change.relation_oid)
        if self._floors and self._in_copy(target.table):
            return
        if isinstance(change, Insert):
            step = Change(INSERT, target, None, change.new)
        elif isinstance(change, Update):
            step = Change(UPDATE, target, change.old, change.new)
        else:
            step = Change(DELETE, target, change.old, None)
        self._chunk.steps.append(step)

    def _other(self, item: Item) -> Chunk | None:
        match item:
            case Begin():
                self._chunk = Chunk(Lsn(item.final_lsn))
            case Commit():
                chunk = self._cut()
                chunk.end, chunk.commit_time_us = Lsn(item.end_lsn), item.commit_time
                return chunk
            case Relation():
                self._relations[item.oid] = item
                self._targets.pop(item.oid, None)
            case Truncate():
                self._truncate(item)
            case Message():
                self._message(item)
            case Discard():
                self._chunk = Chunk(Lsn(0))
                return Chunk(Lsn(0), discard=True)
            case Heartbeat(lsn):
                return Chunk(lsn, end=lsn, heartbeat=True)
        return None

    def _cut(self) -> Chunk:
        chunk, self._chunk = self._chunk, Chunk(self._chunk.commit_lsn)
        return chunk

    def _in_copy(self, table: TableId) -> bool:
        """Whether the table was copied under a snapshot that has this transaction already."""
        floor = self._floors.get(table)
        return floor is not None and self._chunk.commit_lsn < floor

    async def _target(self, oid: int) -> TargetTable:
        target = self._targets[oid] = await self._describe(self._relation(oid), self._chunk.commit_lsn)
        return target

    def _relation(self, oid: int) -> Relation:
        relation = self._relations.get(oid)
        if relation is None:
            raise PgmigError(
                ErrorKind.CORRUPT,
                "the change stream holds a change of a relation that it does not describe",
                "delete the change stream: the decoder fills it again from the replication slot",
                self._chunk.commit_lsn,
            )
        return relation

    def _truncate(self, change: Truncate) -> None:
        tables = [self._relation(oid).table for oid in change.relation_oids]
        tables = [table for table in tables if not self._in_copy(table)]
        if tables:
            self._chunk.steps.append(Truncation(tuple(tables), change.restart_identity))

    def _message(self, message: Message) -> None:
        content = message.content.decode(errors="replace")
        if message.prefix == MESSAGE_PREFIX and content.startswith(self._sentinel_prefix):
            self._chunk.sentinels.append(content.removeprefix(self._sentinel_prefix))
