"""Chunks in, destination transactions out: which are grouped, and when they are committed.

Consecutive complete transactions that are available share a destination transaction (rule 5). If
the applier keeps up, each has its own. A transaction larger than a chunk has a separate destination
transaction. `strict_until` forbids grouping up to an LSN: after a group has failed,
its transactions are applied one by one, so that everything before the failed one is kept and the
error names it. `boundaries` always forbids grouping; sets within a transaction and pipelining remain.

While the destination executes one group, the next is prepared. It is sent together with the previous group's
commit, when that group is known to be correct (only the writer detects an UPDATE that did not find its row).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from opentelemetry.context import Context

from services.applier.attribution import located, spans
from services.applier.chunks import ChunkQueue
from services.applier.compact import Step, compact, row_by_row
from services.applier.conflicts.guard import Conflicts
from services.applier.planner import Chunk, Sentinel
from services.applier.single_row_tables import SingleRowTables
from services.shared.model import Lsn, PgmigError, TableId
from services.shared.pg.apply.refusal import CommitFailedError, RefusedError
from services.shared.pg.apply.session import ApplySession
from services.shared.pg.apply.target_table import Operation
from services.shared.runtime.telemetry import SpanName, tracer

log = logging.getLogger(__name__)

GROUP_STEPS = 5000
GROUP_BYTES = 8 << 20
FLUSH_POLL_S = 0.05
CONFLICT_ATTEMPTS = 5
"""How often a transaction is applied that meets rows which others insert or delete at the same moment."""


@dataclass(slots=True)
class Totals:
    """What the assignment has applied so far."""

    rows: int = 0
    transactions: int = 0
    bytes: int = 0
    conflicts: int = 0
    last_commit_at: float = 0.0


class GroupFailedError(Exception):
    """A destination transaction failed, and it is not known which of its transactions is the cause. until:
    the commit LSN of the last source transaction that may be the cause."""

    def __init__(self, until: int, cause: PgmigError) -> None:
        super().__init__(str(cause))
        self.until = until


class Writer:
    """Applies the chunks of one session. on_sentinel(sentinel, end LSN) is called when it is flushed.
    conflicts: None if nobody else writes to the destination."""

    def __init__(
        self,
        session: ApplySession,
        totals: Totals,
        on_sentinel: Callable[[Sentinel, Lsn], None],
        strict_until: int = 0,
        *,
        boundaries: bool = False,
        conflicts: Conflicts | None = None,
    ) -> None:
        self._session = session
        self._totals = totals
        self._on_sentinel = on_sentinel
        self._strict_until = strict_until
        self._boundaries = boundaries
        self._conflicts = conflicts
        self._alone: frozenset[TableId] = frozenset()  # tables whose changes were compacted one by one
        self._group: list[Chunk] = []
        self._group_steps = self._group_bytes = 0
        self._single_row = SingleRowTables()
        self._under_way: tuple[list[Chunk], asyncio.Task[None]] | None = None
        self._large = False
        self._latest = 0  # commit LSN of the last transaction received
        self._sequences: deque[tuple[Lsn, int]] = deque()
        self._unflushed: deque[tuple[Lsn, Context, int]] = deque()

    @property
    def latest(self) -> int:
        """The commit LSN of the last source transaction that was received."""
        return self._latest

    async def run(self, queue: ChunkQueue) -> None:
        """Apply until an error. After any error, the destination is at its last commit."""
        try:
            while True:
                await self._step(queue)
        except CommitFailedError as exc:  # its transactions are no longer available
            if exc.error.policy.retry:
                raise exc.error from exc
            raise GroupFailedError(self._latest, exc.error) from exc
        except PgmigError as exc:
            if exc.policy.retry or self._latest <= self._strict_until:
                raise
            raise GroupFailedError(self._latest, exc) from exc
        finally:
            await self._abandon()

    async def _step(self, queue: ChunkQueue) -> None:
        if queue.empty:
            await self._finish_group()
            await self._finish_running()
            await self._session.send_commit()
            await self._session.poll_flush()
            self._end_flush_spans()
        for chunk in await queue.get(None if self._idle else FLUSH_POLL_S):
            if chunk.error is not None:
                await self._finish_group()
                await self._finish_running()
                await self._session.send_commit()
                self._strict_until = self._latest  # planning failed, not what was applied
                raise chunk.error
            await self._take(chunk)

    @property
    def _idle(self) -> bool:
        return self._large or self._session.all_flushed

    @property
    def trimmable(self) -> int:
        """Stream messages before this sequence contain only flushed changes; 0: unknown."""
        found = 0
        while self._sequences and self._sequences[0][0] <= self._session.flushed:
            found = self._sequences.popleft()[1]
        return found

    async def _take(self, chunk: Chunk) -> None:
        if chunk.discard:
            if self._large:
                await self._finish_running()
                await self._roll_back()
                self._large = False
            return
        self._latest = max(self._latest, chunk.commit_lsn)
        if self._large or not chunk.transactions:
            await self._go_on(chunk)
        elif self._strict(chunk):
            await self._finish_group()
            await self._finish_running()
            await self._replay(chunk)
        elif self._boundaries:
            for one in _single_transactions(chunk):
                self._add(one)
                await self._finish_group()
        else:
            self._add(chunk)
            if self._full() or chunk.sentinels:
                await self._finish_group()

    def _add(self, chunk: Chunk) -> None:
        self._group.append(chunk)
        self._group_steps += len(chunk.steps)
        self._group_bytes += chunk.bytes

    def _strict(self, chunk: Chunk) -> bool:
        """Whether a transaction in the chunk may be the cause of a failure."""
        first = chunk.transactions[0].commit_lsn if chunk.transactions else chunk.commit_lsn
        return first <= self._strict_until

    def _full(self) -> bool:
        return self._group_steps >= GROUP_STEPS or self._group_bytes >= GROUP_BYTES

    async def _go_on(self, chunk: Chunk) -> None:
        """Write a part of a transaction that has a separate destination transaction."""
        if not self._large:
            await self._finish_group()
            await self._finish_running()
            self._large = True
        strict = self._strict(chunk)
        with located([chunk]):
            operations = row_by_row(chunk.steps) if strict else self._compacted([chunk])
        await self._send([chunk], operations)
        if chunk.transactions:
            await self._finish_running()
            self._large = False
            if strict:
                await self._await_commit()

    async def _finish_group(self) -> None:
        """Send the group to the destination."""
        group, self._group = self._group, []
        self._group_steps = self._group_bytes = 0
        if group:
            await self._send(group, self._compacted(group))

    def _compacted(self, group: list[Chunk]) -> list[Operation]:
        with located(group):
            self._alone = self._single_row.of_next_group()
            return compact(list(chain.from_iterable(chunk.steps for chunk in group)), self._alone)

    async def _send(self, group: list[Chunk], operations: list[Operation]) -> None:
        """Execute the group on the destination after the previous one is committed. Meanwhile the next chunks
        are read and compacted, unless the group uses much memory."""
        await self._finish_running()
        if not self._large and self._strict(group[0]):  # set just now, because the previous group failed
            for chunk in group:
                await self._replay(chunk)
            return
        task = asyncio.create_task(self._execute(group, operations), name="write-group")
        self._under_way = group, task
        await asyncio.sleep(0)
        if sum(chunk.bytes for chunk in group) >= GROUP_BYTES:
            await self._finish_running()

    async def _execute(
        self, group: list[Chunk], operations: list[Operation], *, one_by_one: bool = False
    ) -> None:
        with located(group), spans(group):
            if self._conflicts is not None:
                write = row_by_row if one_by_one else self._compact_again
                operations = await self._conflicts.operations(group, operations, write)
                if one_by_one:
                    self._conflicts.sent(operations)
            await self._session.execute(operations, durable=bool(_sentinels(group)))

    def _compact_again(self, steps: Sequence[Step]) -> list[Operation]:
        return compact(steps, self._alone)

    async def _roll_back(self) -> None:
        await self._session.rollback()
        if self._conflicts is not None:
            self._conflicts.rolled_back()

    async def _finish_running(self) -> None:
        """Wait until the running group has been executed, and commit it."""
        if self._under_way is None:
            return
        group, task = self._under_way
        try:
            await task
        except RefusedError as exc:
            if self._large:
                raise
            self._under_way = None
            await self._write_again(group, exc)
        else:
            self._under_way = None
            await self._commit(group)

    async def _abandon(self) -> None:
        """Stop the running group, so that nothing runs after the end of the session."""
        if self._under_way is not None:
            _, task = self._under_way
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # it is known or has no importance any more
            self._under_way = None

    async def _write_again(self, group: list[Chunk], exc: RefusedError) -> None:
        """Write a refused group again: the refused table row by row, or else one transaction at a time."""
        refused: set[TableId | None] = {None}
        while True:
            await self._roll_back()
            log.info("a set of changes was refused: %s", exc)
            if exc.table in refused:
                break
            refused.add(exc.table)
            self._single_row.refused(exc.table)
            try:
                await self._execute(group, self._compacted(group))
            except RefusedError as again:
                exc = again
            else:
                await self._commit(group)
                return
        log.info("replaying the transactions of the set one by one")
        self._strict_until = self._latest
        for chunk in group:
            await self._replay(chunk)

    async def _replay(self, chunk: Chunk) -> None:
        """Apply each transaction separately, each change as it happened, and wait for each commit. A
        transaction that fails here is the cause, and everything before it is kept."""
        for one in _single_transactions(chunk):
            with located([one]):
                await self._apply_alone(one)
                await self._commit([one])
                await self._await_commit()

    async def _apply_alone(self, one: Chunk) -> None:
        for left in reversed(range(CONFLICT_ATTEMPTS)):
            try:
                await self._execute([one], row_by_row(one.steps), one_by_one=True)
            except RefusedError as exc:
                if self._conflicts is None or not exc.may_pass:
                    raise
                if not left:
                    raise self._conflicts.refused(exc) from exc
                await self._roll_back()
            else:
                return

    async def _await_commit(self) -> None:
        """Wait for the commit. If it fails, this transaction is the cause."""
        try:
            await self._session.send_commit()
        except CommitFailedError as exc:
            raise exc.error from exc

    async def _commit(self, group: list[Chunk]) -> None:
        """Commit what was executed, unless it is part of a transaction that continues. The end of the
        last transaction is the destination's progress."""
        for chunk in group:
            self._totals.rows += len(chunk.steps)
            self._totals.bytes += chunk.bytes
        if not group[-1].transactions:
            return
        last = group[-1].transactions[-1]
        end = Lsn(last.end_lsn)
        if self._conflicts is None:
            self._session.commit(end, last.commit_time)
        else:  # the other side takes this for the time of the last transaction that it knows of
            times = (one.commit_time for chunk in group for one in chunk.transactions)
            self._session.commit(end, max(times))
            self._totals.conflicts += self._conflicts.committed()
        self._sequences.append((end, group[-1].sequence))
        for chunk in group:
            self._totals.transactions += len(chunk.transactions) - chunk.heartbeats
            if chunk.trace is not None:
                self._unflushed.append((end, chunk.trace, time.time_ns()))
        if last.commit_time:
            self._totals.last_commit_at = last.commit_time / 1e6
        sentinels = _sentinels(group)
        if sentinels:
            await self._session.send_commit()
            await self._session.await_flush()
            for sentinel in sentinels:
                self._on_sentinel(sentinel, end)

    def _end_flush_spans(self) -> None:
        while self._unflushed and self._unflushed[0][0] <= self._session.flushed:
            _, parent, began = self._unflushed.popleft()
            tracer().start_span(SpanName.FLUSH.value, context=parent, start_time=began).end()


def _single_transactions(chunk: Chunk) -> Iterator[Chunk]:
    """One chunk for each transaction of `chunk`. Its bytes are divided in proportion to their rows."""
    start, rows = 0, len(chunk.steps) or 1
    for transaction in chunk.transactions:
        steps = chunk.steps[start : transaction.stop]
        start = transaction.stop
        yield Chunk(
            transaction.commit_lsn,
            steps,
            [transaction],
            bytes=chunk.bytes * len(steps) // rows,
            sequence=chunk.sequence,
            trace=chunk.trace,
            xid=transaction.xid,
            sentinels=[one for one in chunk.sentinels if one.commit_lsn == transaction.commit_lsn],
            heartbeats=int(not transaction.commit_time),
            seen=chunk.seen,
        )


def _sentinels(chunks: list[Chunk]) -> list[Sentinel]:
    return [sentinel for chunk in chunks for sentinel in chunk.sentinels]
