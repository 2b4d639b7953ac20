"""Assembled items in, chunks of steps out.

A chunk contains all complete transactions that ended in one batch of the stream, or a part of a
transaction that is too large to hold. The last part of such a transaction contains its end. The destination
commits only where a transaction ends. LSNs and times are ints here, as in `pgoutput`, because this is the
hot path.
"""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from opentelemetry.context import Context

from services.applier.assembler import Changes, Discard, Heartbeat, Item, Whole
from services.applier.compact import Step, Truncation
from services.shared.model import MESSAGE_PREFIX, ErrorKind, Lsn, PgmigError, PipelineId, Route, TableId
from services.shared.pg.apply.target_table import TargetTable
from services.shared.pgoutput import Begin, Commit, Message, Relation, Transaction, Truncate

log = logging.getLogger(__name__)

PART_STEPS = 5000
PART_BYTES = 2 << 20
COUNTED_AT_MOST = 10_000
"""Rows after a sentinel. A switchover is rolled back because of the first one, so an exact number beyond
this limit has no use."""

MARK = "seen "
"""Begins the content of a mark: see services.decoder.marks."""

Describe = Callable[[Relation, Lsn], Awaitable[TargetTable]]
Check = Callable[[Relation, Lsn], Awaitable[None]]
Named = Callable[[Relation, Lsn], Awaitable[Relation]]


async def _as_read(relation: Relation, _lsn: Lsn) -> Relation:
    """Used if names are sent in UTF-8."""
    return relation


async def unchecked(_relation: Relation, _lsn: Lsn) -> None:
    """Used if the identities of the source's tables were not recorded."""


class Sentinel(NamedTuple):
    """token: of the message in the transaction of `commit_lsn`. since: of the sentinel before,
    "" if there was none. changes: rows by table that were planned since then."""

    commit_lsn: int
    token: str
    since: str = ""
    changes: tuple[tuple[TableId, int], ...] = ()


@dataclass(slots=True)
class Chunk:
    """transactions: each with the position where its steps end; empty for a part of one that continues.
    heartbeats: how many of them are progress without a transaction. commit_lsn, xid: of the last one.
    discard: those parts are void. error: why planning cannot continue; raised when everything before has been
    applied. sequence: of the last stream message that was read. seen: what its transactions have seen of the
    destination (services.decoder.marks). commit_time: of a part.
    """

    commit_lsn: int
    steps: list[Step] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    bytes: int = 0
    sequence: int = 0
    discard: bool = False
    error: PgmigError | None = None
    trace: Context | None = None
    xid: int = 0
    sentinels: list[Sentinel] = field(default_factory=list)
    heartbeats: int = 0
    seen: int = 0
    commit_time: int = 0


class Planner:
    """Converts one stream's items to chunks, and keeps the relations that it has received.

    floors: changes to these tables that commit before the LSN are skipped. skip: commit LSNs of
    transactions that an operator skipped. They are planned as empty transactions, so
    that progress passes each of them as usual. routes: partitions of the source that are replaced by
    their root from here on. check: raises SCHEMA_DRIFT for a relation, by its name on the
    source, that differs from what was copied. named: converts the names of a relation to text. seen: what the
    first transaction has seen, unless the stream says more.
    """

    def __init__(
        self,
        pipeline: PipelineId,
        describe: Describe,
        floors: dict[TableId, Lsn],
        skip: frozenset[int] = frozenset(),
        routes: Iterable[Route] = (),
        *,
        check: Check = unchecked,
        named: Named = _as_read,
        seen: int = 0,
    ) -> None:
        self._pipeline = pipeline
        self._sentinel_prefix = f"{pipeline}:"
        self._describe = describe
        self._check = check
        self._named = named
        self._floors = floors
        self._highest_floor = max((floor.value for floor in floors.values()), default=0)
        self._skip = skip
        self._roots = {route.leaf: route.root for route in routes}
        self._leaves: dict[int, TableId] = {}  # by OID: relations that use their root's name
        self._given_up = False  # whether the current transaction is skipped
        self._xid = self._commit_time = 0  # of the current transaction
        self._seen = seen
        self._relations: dict[int, Relation] = {}
        self._targets: dict[int, TargetTable] = {}
        self._chunks: list[Chunk] = []  # completed by the current batch
        self._whole = Chunk(0)  # transactions that have ended
        self._steps: list[Step] = []  # of the current transaction
        self._bytes = 0  # of these steps, approximately
        self._commit_lsn = 0  # of the current transaction
        self._sentinels: list[Sentinel] = []
        self._last_sentinel = ""
        self._behind: Counter[TableId] = Counter()  # rows since the last sentinel
        self._counts = False
        self._parted = False  # whether parts of it are in earlier chunks

    async def plan(
        self, items: Iterable[Item], *, size: int = 0, sequence: int = 0, trace: Context | None = None
    ) -> list[Chunk]:
        """Chunks completed by the items of one batch of `size` bytes. An error becomes the last chunk."""
        self._chunks, self._whole = [], Chunk(0)
        error = None
        try:
            await self._take_all(items)
        except PgmigError as exc:
            exc.xid = exc.xid or (self._xid if exc.lsn == Lsn(self._commit_lsn) else 0)
            error = Chunk(self._commit_lsn, error=exc)
        self._end_whole()
        self._share_size(size)
        if self._bytes >= PART_BYTES and self._steps:
            self._part()
        if error is not None:
            self._chunks.append(error)
        for chunk in self._chunks:
            chunk.sequence, chunk.trace = sequence, trace
        return self._chunks

    async def _take_all(self, items: Iterable[Item]) -> None:
        for item in items:
            if isinstance(item, Whole):
                await self._take_whole(item)
            elif isinstance(item, list):
                if not self._given_up:
                    await self._take_changes(item)
            elif isinstance(item, Begin):
                self._begin(item.final_lsn, item.xid)
                self._commit_time = item.commit_time
            elif isinstance(item, Commit):
                self._commit(item)
            elif isinstance(item, Truncate):
                await self._truncate(item)
            elif isinstance(item, Relation):
                await self._relate(item)
            else:
                self._other(item)

    async def _take_whole(self, whole: Whole) -> None:
        """Plan many transactions at once, unless one of them needs a further check.

        Floors need no check here: a table gets a target with its first transaction after its floor.
        """
        targets = self._targets
        self._pass_floors(whole.transactions[0].commit_lsn)
        try:
            if self._skip:
                raise KeyError
            steps: list[Step] = [(targets[change[0]], change) for change in whole.changes]
        except KeyError:
            await self._take_all(whole.apart())
            return
        if self._counts:
            self._count(steps)
        self._end_whole()
        last = whole.transactions[-1]
        self._whole = Chunk(
            last.commit_lsn, steps, whole.transactions, bytes=self._bytes, xid=last.xid, seen=self._seen
        )
        self._bytes = 0

    async def _take_changes(self, changes: Changes) -> None:
        for start in range(0, len(changes), PART_STEPS):
            some = changes[start : start + PART_STEPS] if len(changes) > PART_STEPS else changes
            if self._floors:  # before targets, because skipped changes may no longer fit the table
                some = [one for one in some if not self._in_copy(one[0])]
            try:
                steps: list[Step] = [(self._targets[change[0]], change) for change in some]
            except KeyError:
                for oid in {change.relation_oid for change in some} - self._targets.keys():
                    await self._target(oid)
                steps = [(self._targets[change[0]], change) for change in some]
            if self._counts:
                self._count(steps)
            self._steps += steps
            if len(self._steps) >= PART_STEPS:
                self._end_whole()
                self._part()

    def _begin(self, commit_lsn: int, xid: int) -> None:
        self._steps, self._bytes, self._sentinels, self._parted = [], 0, [], False
        self._commit_lsn, self._xid = commit_lsn, xid
        self._pass_floors(commit_lsn)
        self._given_up = commit_lsn in self._skip
        if self._given_up:
            log.warning("skipping source transaction %s, which commits at %s", xid, Lsn(commit_lsn))

    def _commit(self, commit: Commit) -> None:
        if self._parted:
            self._end_whole()
        chunk = self._whole
        chunk.steps += self._steps
        chunk.bytes += self._bytes
        chunk.commit_lsn, chunk.xid, chunk.seen = self._commit_lsn, self._xid, self._seen
        chunk.transactions.append(
            Transaction(self._commit_lsn, commit.end_lsn, commit.commit_time, len(chunk.steps), self._xid)
        )
        chunk.sentinels += self._sentinels
        if self._parted:
            self._end_whole()
        self._steps, self._bytes, self._parted = [], 0, False

    def _end_whole(self) -> None:
        """Complete the chunk of transactions that have ended."""
        if self._whole.transactions:
            self._chunks.append(self._whole)
            self._whole = Chunk(0)

    def _part(self) -> None:
        """Put the steps of the current transaction so far into a separate chunk."""
        self._chunks.append(
            Chunk(
                self._commit_lsn,
                self._steps,
                bytes=self._bytes,
                xid=self._xid,
                seen=self._seen,
                commit_time=self._commit_time,
            )
        )
        self._steps, self._bytes, self._parted = [], 0, True

    def _share_size(self, size: int) -> None:
        """Distribute a batch's size among the chunks with its rows, including the current transaction."""
        total = len(self._steps) + sum(len(chunk.steps) for chunk in self._chunks)
        for chunk in self._chunks:
            chunk.bytes += size * len(chunk.steps) // (total or 1)
        self._bytes += size * len(self._steps) // total if total else size

    async def _relate(self, relation: Relation) -> None:
        named = await self._named(relation, Lsn(self._commit_lsn))
        self._relations[relation.oid] = self._routed(named)
        self._targets.pop(relation.oid, None)

    def _other(self, item: Item) -> None:
        match item:
            case Message():
                self._message(item)
            case Discard():
                self._begin(0, 0)
                self._end_whole()
                self._chunks.append(Chunk(0, discard=True))
            case Heartbeat(lsn, seen):
                self._see(seen)
                self._whole.seen = self._seen
                self._whole.commit_lsn = lsn.value
                self._whole.transactions.append(Transaction(lsn.value, lsn.value, 0, len(self._whole.steps)))
                self._whole.heartbeats += 1

    def _pass_floors(self, commit_lsn: int) -> None:
        """From the highest floor on, transactions need no further check."""
        if self._floors and commit_lsn >= self._highest_floor:
            self._floors = {}

    def _in_copy(self, oid: int) -> bool:
        """Whether the table was copied under a snapshot that contains this transaction. The floor is looked
        up by the table's own name and by the root's name."""
        names = self._relation(oid).table, self._leaves.get(oid)
        return any(self._commit_lsn < self._floors[name].value for name in names if name in self._floors)

    def _routed(self, relation: Relation) -> Relation:
        root = self._roots.get(relation.table)
        if root is None:
            self._leaves.pop(relation.oid, None)
            return relation
        self._leaves[relation.oid] = relation.table
        return relation._replace(schema=root.schema, name=root.name)

    async def _target(self, oid: int) -> TargetTable:
        relation = self._relation(oid)
        # Partitions share the root's target, so that changes of a row that moves between them stay in order.
        shared = (
            known
            for other, known in self._targets.items()
            if oid in self._leaves
            and other in self._leaves
            and known.relation == relation._replace(oid=other)
        )
        lsn = Lsn(self._commit_lsn)
        target = next(shared, None) or await self._describe(relation, lsn)
        name = self._leaves.get(oid, relation.table)
        await self._check(relation._replace(schema=name.schema, name=name.name), lsn)
        self._targets[oid] = target
        return target

    def _relation(self, oid: int) -> Relation:
        relation = self._relations.get(oid)
        if relation is None:
            raise PgmigError(
                ErrorKind.CORRUPT,
                "the change stream holds a change of a relation that it does not describe",
                "delete the change stream: the decoder fills it again from the replication slot",
                Lsn(self._commit_lsn),
            )
        return relation

    async def _truncate(self, change: Truncate) -> None:
        if self._given_up:
            return
        oids = [oid for oid in change.relation_oids if not self._in_copy(oid)]
        self._check_roots_whole(oids)
        targets = [self._targets.get(oid) or await self._target(oid) for oid in oids]
        if targets:
            partitioned = frozenset(target.table for target in targets if target.partitioned)
            tables = tuple(dict.fromkeys(target.table for target in targets))
            self._steps.append(Truncation(tables, change.restart_identity, partitioned, tuple(targets)))
            if self._counts:
                self._count(self._steps[-1:])

    def _check_roots_whole(self, oids: Iterable[int]) -> None:
        """Refuse a TRUNCATE of some partitions. If a partition is not a separate table on the destination,
        it can only be emptied together with all the others."""
        emptied = {self._leaves[oid] for oid in oids if oid in self._leaves}
        for leaf in sorted(emptied):
            root = self._roots[leaf]
            if any(other not in emptied for other, its in self._roots.items() if its == root):
                raise PgmigError(
                    ErrorKind.SCHEMA_DRIFT,
                    f"partition {leaf} was truncated on the source; the destination has no such partition, "
                    f"and its rows in {root} cannot be distinguished from the others",
                    "copy the rows of all partitions again with: pgmig-cli resync-table --id "
                    f"{self._pipeline.migration} {shlex.quote(root.argument)}",
                    Lsn(self._commit_lsn),
                )

    def _message(self, message: Message) -> None:
        content = message.content.decode(errors="replace")
        if message.prefix == MESSAGE_PREFIX and content.startswith(self._sentinel_prefix):
            token = content.removeprefix(self._sentinel_prefix)
            changes = tuple(sorted(self._behind.items()))
            self._sentinels.append(Sentinel(self._commit_lsn, token, self._last_sentinel, changes))
            self._last_sentinel, self._counts = token, True
            self._behind.clear()
        elif message.prefix == MESSAGE_PREFIX and content.startswith(MARK):
            self._see(int(content.removeprefix(MARK)))

    def _see(self, seen: int) -> None:
        """From here on, transactions have seen more."""
        if seen > self._seen:
            self._end_whole()
            self._seen = seen

    def _count(self, steps: Iterable[Step]) -> None:
        """Count changes after a sentinel. There must be none during a switchover."""
        for step in steps:
            self._behind.update(step.tables if isinstance(step, Truncation) else (step[0].table,))
        self._counts = self._behind.total() < COUNTED_AT_MOST
