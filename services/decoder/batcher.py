"""Pure decisions of the decoder: which pgoutput messages are published, and where batches end.

Messages are published unparsed; only a type byte, an LSN or a relation's OID is read.

- A transaction whose commit record is before `position` is already in the stream, so it is dropped.
- Relation messages are remembered and repeated in every batch that uses the relation, so that a
  reader can begin at any batch. Type messages contain nothing that is needed and are dropped.
- Logical messages are published if they are transactional and ours (sentinels); others are dropped.
- With `local_only`, a transaction that has a replication origin is dropped: pgoutput names the origin
  directly after Begin. `position` advances over it, and the next batch or heartbeat continues the chain from
  the last batch. No batch is published for it, so that two pipelines in opposite directions do not answer
  each other's empty transactions for ever. If it was written by the opposite pipeline's applier, a mark may
  follow in a later transaction: see `marks`.
- A batch is full at `target` bytes. The caller may end it earlier, if there are no more messages
  at the moment. A message in fragments may continue in the next batch.
- A TRUNCATE may need more Relation messages than fit in a batch. They are then spread over several batches
  before it, in the same transaction, so that its reader has received all of them.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence

from services.decoder import message_runs
from services.decoder.marks import Marks, is_mark
from services.shared.model import MESSAGE_PREFIX, ErrorKind, Lsn, PgmigError
from services.shared.model.compiled import twin_of
from services.shared.pgoutput.fragments import Fragment
from services.shared.wire.changes import FRAME_HEADER, ChangeBatch, frame

TARGET_BYTES = 128 << 10
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_BEGIN, _COMMIT, _ORIGIN, _RELATION, _TYPE, _INSERT, _UPDATE, _DELETE, _TRUNCATE, _MESSAGE = b"BCORYIUDTM"
_OUR_MESSAGE = MESSAGE_PREFIX.encode() + b"\0"

_collect: Callable[..., tuple[int, int, bool, int]] = twin_of(message_runs).collect


class Batcher:
    """Converts the messages of one replication session to change batches. target: bytes. local_only: drop
    transactions that have a replication origin. marks: which of them leave marks."""

    def __init__(
        self,
        position: Lsn,
        *,
        target: int = TARGET_BYTES,
        local_only: bool = False,
        marks: Marks | None = None,
    ) -> None:
        self.position = position  # end of the last transaction (or heartbeat) that was batched or dropped
        self.in_transaction = False
        self._target = target
        self._local_only = local_only
        self._marks = marks or Marks("")
        self._resume = position.value
        self._skipping = False
        self._foreign = False  # the current transaction has an origin, so its messages are dropped
        self._hidden = False  # and its Begin is in no batch
        self._last: bytes | memoryview = b""  # the last message of the batch before
        self._batched = position  # end of the last transaction (or heartbeat) that was batched
        self._relations: dict[bytes, bytes] = {}
        self._known: set[bytes] = set()  # relations described in the current batch
        self._chunks: list[bytes | memoryview] = []
        self._size = 0
        self._missing = 0  # bytes still missing of a message in fragments
        self._dropping = False  # whether that message is dropped
        self._previous = position
        self._continues = False  # the current batch began inside a transaction
        self._continued = 0  # or inside a message, of which so many bytes were missing then
        self._number = 0
        self._ready: deque[ChangeBatch] = deque()  # batches that became full between a message's relations

    @property
    def pending(self) -> bool:
        """Whether an unfinished batch contains anything."""
        return bool(self._chunks or self._ready)

    @property
    def _open(self) -> bool:
        """Whether the batches end inside a transaction."""
        return self.in_transaction and not self._hidden

    @property
    def full(self) -> bool:
        return self._size >= self._target or bool(self._ready)

    def collect(self, messages: Sequence[object], start: int) -> int:
        """Add messages from `start` on that need no further check, until the batch is full. Returns the
        position of the first message that `feed` must handle. The hot path: nearly all messages."""
        if self._skipping or self._foreign or self._missing or self._marks.due:
            return start
        room, chunks = self._target - self._size, self._chunks
        at, size, self.in_transaction, ended = _collect(
            messages, start, self._known, chunks, room, floor=self._resume, inside=self.in_transaction
        )
        self._size += size
        if ended:
            self.position = self._batched = Lsn(ended)
        return at

    def feed(self, message: bytes) -> None:
        """Add one pgoutput message."""
        kind = message[0]
        if self._missing:
            raise PgmigError(ErrorKind.CORRUPT, "the source sent a message inside another")
        if kind == _RELATION:
            oid = message[1:5]
            self._relations[oid] = message
            self._known.discard(oid)
        elif kind == _BEGIN:
            self.in_transaction = True
            self._foreign = self._hidden = False  # nothing of one transaction decides about the next
            self._skipping = _U64.unpack_from(message, 1)[0] < self._resume
            if not self._skipping:
                self._add(message)
        elif kind == _COMMIT:
            self._commit(message)
        elif kind == _ORIGIN and self._local_only:
            self._drop_foreign(message)
        elif kind != _TYPE and self._travels(kind, message):
            self._mark()
            self._describe_all(kind, message)
            self._add(message)

    def feed_fragment(self, fragment: Fragment) -> None:
        """Add a fragment of a message; fragments must be in order."""
        data = fragment.data
        if fragment.length:
            head = bytes(data[:64])
            self._missing = fragment.length
            self._dropping = not self._travels(head[0], head)
            if not self._dropping:
                if head[0] not in (_INSERT, _UPDATE, _DELETE, _MESSAGE):
                    raise PgmigError(
                        ErrorKind.CORRUPT, f"the source sent a message {chr(head[0])!r} that is too long"
                    )
                self._mark()
                self._describe_all(head[0], head)
                self._chunks.append(_U32.pack(fragment.length))
                self._size += FRAME_HEADER
        self._missing -= len(data)
        if not self._dropping:
            self._chunks.append(data)
            self._size += len(data)

    def _travels(self, kind: int, message: bytes) -> bool:
        return not (self._skipping or self._foreign) and (kind != _MESSAGE or self._is_ours(message))

    def _is_ours(self, message: bytes) -> bool:
        """Transactional (flag 1) and with our prefix, which is after the flags and the LSN."""
        return (
            self.in_transaction
            and message[1] & 1 == 1
            and message.startswith(_OUR_MESSAGE, 10)
            and not is_mark(message)
        )

    def _mark(self) -> None:
        """Add the mark that is due to the current transaction, which is local."""
        if self._marks.due:
            self._add(self._marks.message())

    def _commit(self, message: bytes) -> None:
        self.in_transaction = False
        if self._skipping:
            self._skipping = False
            return
        self.position = Lsn(_U64.unpack_from(message, 10)[0])
        if self._foreign:
            self._marks.commit()
        else:
            self._mark()
        if not self._hidden:
            self._add(message)
            self._batched = self.position

    def _drop_foreign(self, origin: bytes) -> None:
        """Drop the transaction that has just begun. If a batch with its Begin has ended already, it becomes
        an empty transaction."""
        if self._skipping:
            return
        begin = self._chunks[-1] if self._chunks else self._last
        if begin[:1] != b"B" or not self.in_transaction:
            raise PgmigError(ErrorKind.CORRUPT, "the source named an origin within a transaction")
        self._marks.begin(begin, origin)
        self._foreign, self._hidden = True, bool(self._chunks)
        if self._hidden:
            del self._chunks[-2:]
            self._size -= len(begin) + FRAME_HEADER

    def _describe_all(self, kind: int, message: bytes) -> None:
        """Add the relations that a message needs."""
        if kind in (_INSERT, _UPDATE, _DELETE):
            self._describe(message[1:5])
        elif kind == _TRUNCATE:
            for at in range(6, len(message), 4):
                self._describe(message[at : at + 4])
                if self._size >= self._target and (batch := self._end()) is not None:
                    self._ready.append(batch)
        elif kind not in (_MESSAGE, _ORIGIN):
            raise PgmigError(ErrorKind.CORRUPT, f"the source sent an unknown message type {chr(kind)!r}")

    def _describe(self, oid: bytes) -> None:
        if oid not in self._known:
            relation = self._relations.get(oid)
            if relation is None:
                raise PgmigError(
                    ErrorKind.CORRUPT, "the source sent a change of a relation that it never described"
                )
            self._known.add(oid)
            self._add(relation)

    def _add(self, message: bytes) -> None:
        self._chunks += frame(message)
        self._size += len(message) + FRAME_HEADER

    def flush(self) -> ChangeBatch | None:
        """End the current batch, or return the first of those that have ended; None if nothing is left."""
        return self._ready.popleft() if self._ready else self._end()

    def _end(self) -> ChangeBatch | None:
        if not self._chunks:
            return None
        cut = self._missing > 0 and not self._dropping
        batch = ChangeBatch(
            previous_lsn=self._previous,
            end_lsn=self._batched,
            payload=b"".join(self._chunks),
            continues_transaction=self._continues,
            open_transaction=self._open,
            continued_bytes=min(self._continued, self._size),
            open_frame=cut,
            number=self._number,
        )
        self._last = self._chunks[-1]
        self._chunks, self._size = [], 0
        self._known.clear()
        self._number += 1
        self._previous = self._batched
        self._continues = self._open
        self._continued = self._missing if cut else 0
        return batch

    def heartbeat(self, wal_end: Lsn) -> ChangeBatch | None:
        """A batch with progress but no data; None unless idle and `wal_end` is new (rule 6)."""
        if self.in_transaction or self.pending or wal_end < self.position or wal_end <= self._previous:
            return None
        batch = ChangeBatch(
            previous_lsn=self._previous,
            end_lsn=wal_end,
            heartbeat=True,
            number=self._number,
            seen=self._marks.heartbeat(),
        )
        self._number += 1
        self.position = self._batched = self._previous = wal_end
        return batch
