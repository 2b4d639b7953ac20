"""Change batches in, complete transactions out: a pure function of what was read so far.

Rules that are implemented here: the chain of batches has no gap beyond the destination's progress (4);
a transaction that progress covers is skipped, identified by its commit record (1, 3); a transaction that
was only partly published begins again, and the first part is discarded (5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.pgoutput import (
    Begin,
    Commit,
    Delete,
    Insert,
    Message,
    Relation,
    Transaction,
    Truncate,
    Update,
    parse,
    parse_relation,
    read_changes,
    read_transactions,
)
from services.shared.wire.changes import ChangeBatch, FrameReader, corrupt

_BEGIN, _COMMIT, _RELATION, _ORIGIN = b"BCRO"

Changes = list[Insert | Update | Delete]
"""Consecutive row changes of one transaction."""


@dataclass(frozen=True, slots=True)
class Whole:
    """Consecutive transactions that contain only row changes."""

    changes: Changes
    transactions: list[Transaction]

    def apart(self) -> Iterator[Begin | Changes | Commit]:
        """The same items, one after the other."""
        start = 0
        for one in self.transactions:
            yield Begin(one.commit_lsn, one.commit_time, one.xid)
            yield self.changes[start : one.stop]
            yield Commit(0, one.commit_lsn, one.end_lsn, one.commit_time)
            start = one.stop


@dataclass(frozen=True, slots=True)
class Discard:
    """The current transaction is void, because it is published again from its first message."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing was committed between the last transaction and `lsn`. seen: as in ChangeBatch."""

    lsn: Lsn
    seen: int = 0


Item = Whole | Begin | Changes | Truncate | Message | Relation | Commit | Discard | Heartbeat


class Assembler:
    """Reads one change stream in order, from any batch on.

    progress: everything whose commit record is before it is on the destination. names: Python's codec for
    the names in Relation messages.
    """

    def __init__(self, progress: Lsn, names: str = "utf-8") -> None:
        self._progress = progress.value
        self._names = names
        self._frames = FrameReader()
        self._position: Lsn | None = None
        self._number = 0  # of the batch that comes next
        self._open = False
        self._skipping = False
        self._tail = False  # inside a transaction whose beginning was trimmed
        self._relations: dict[bytes, bytes] = {}

    @property
    def progress(self) -> Lsn:
        """The destination's progress after everything that was read."""
        return Lsn(self._progress)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun that is not skipped."""
        return self._open and not self._skipping

    def restart(self) -> Iterator[Item]:
        """The stream begins again. The following batches are checked against progress again."""
        if self.in_transaction:
            yield Discard()
        self._forget_open()
        self._position = None

    def _forget_open(self) -> None:
        self._open = self._skipping = self._tail = False
        self._frames.reset()

    def feed(self, batch: ChangeBatch) -> Iterator[Item]:
        """Raises PgmigError: GAP for a break in the chain, CORRUPT for invalid bytes."""
        yield from self._turn_to(batch)
        if batch.heartbeat:
            yield from self._heartbeat(batch)
            return
        messages, at = self._frames.feed(batch), 0
        while at < len(messages):
            if not self._open:  # the hot path: nearly all transactions
                changes, whole, at = read_transactions(messages, at, self._relations, self._progress)
                if whole:
                    self._progress = whole[-1].end_lsn
                    yield Whole(changes, whole)
            changes, at = read_changes(messages, at)
            if changes:
                if not self._open:
                    raise corrupt("a change outside a transaction", self._position)
                if not self._skipping:
                    yield changes
            if at < len(messages):
                item = self._other(bytes(messages[at]))
                at += 1
                if item is not None:
                    yield item
        if self._open != batch.open_transaction:
            raise corrupt("a batch that does not end where it says", batch.end_lsn)

    def _turn_to(self, batch: ChangeBatch) -> Iterator[Item]:
        """Check that the batch is allowed here. A partly published transaction ends here."""
        self._check_number(batch)
        if not batch.continues_transaction:
            if self.in_transaction:
                yield Discard()
            self._forget_open()
        elif not self._open:
            if self._position is not None:
                raise corrupt("the middle of a transaction without its beginning", batch.previous_lsn)
            self._open = self._skipping = self._tail = True
            self._frames.begin_inside()
        self._check_chain(batch)
        self._position = batch.end_lsn

    def _heartbeat(self, batch: ChangeBatch) -> Iterator[Item]:
        if batch.end_lsn > self.progress:
            self._progress = batch.end_lsn.value
            yield Heartbeat(batch.end_lsn, batch.seen)

    def _check_number(self, batch: ChangeBatch) -> None:
        """A writer's batches arrive in order. A new writer counts from 0, outside a transaction."""
        if self._position is not None and batch.number not in (
            {self._number} if batch.continues_transaction else {self._number, 0}
        ):
            raise corrupt("batches out of order", batch.previous_lsn)
        self._number = (batch.number + 1) & 0xFFFFFFFF

    def _check_chain(self, batch: ChangeBatch) -> None:
        if batch.previous_lsn != self._position and batch.previous_lsn > self.progress:
            raise PgmigError(
                ErrorKind.GAP,
                f"changes between {self.progress} (the destination's progress) and {batch.previous_lsn} "
                "(where the change stream continues) are missing",
                "the replication slot was moved, recreated or read by another: "
                "clean up and start the migration again",
                self.progress,
            )

    def _other(self, message: bytes) -> Item | None:
        """A message that is not a row change; None if it is skipped."""
        kind = message[0] if message else 0
        if kind == _RELATION:
            if self._relations.get(message[1:5]) == message:
                return None
            self._relations[message[1:5]] = message
            return parse_relation(message, self._names)
        if kind == _BEGIN:
            return self._begin(message)
        if not self._open:
            raise corrupt("a change outside a transaction", self._position)
        if kind == _COMMIT:
            return self._commit(message)
        if self._skipping or kind == _ORIGIN:
            return None
        return parse(message)  # type: ignore[return-value]

    def _begin(self, message: bytes) -> Begin | None:
        if self._open:
            raise corrupt("a transaction inside another", self._position)
        begin = parse(message)
        assert isinstance(begin, Begin)
        self._open = True
        self._skipping = begin.final_lsn < self._progress
        return None if self._skipping else begin

    def _commit(self, message: bytes) -> Commit | None:
        commit = parse(message)
        assert isinstance(commit, Commit)
        skipped, tail = self._skipping, self._tail
        self._open = self._skipping = self._tail = False
        if not skipped:
            self._progress = commit.end_lsn
            return commit
        if tail and commit.commit_lsn >= self._progress:
            raise PgmigError(
                ErrorKind.GAP,
                f"the change stream begins inside the transaction that ends at {Lsn(commit.end_lsn)}, "
                f"but the destination has only what was committed before {self.progress}",
                "delete the change stream: the decoder fills it again from the replication slot",
                Lsn(commit.commit_lsn),
            )
        return None
