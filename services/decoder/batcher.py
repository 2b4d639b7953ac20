"""Pure decisions of the decoder: which pgoutput messages travel, and where batches end.

Messages go on unparsed; only a type byte, an LSN or a relation's OID is looked at.

- A transaction whose commit record lies before `position` is in the stream already: dropped.
- Relation messages are remembered and repeated in every batch that uses the relation, so a
  reader may begin at any batch. Type messages carry nothing that is needed: dropped.
- Logical messages travel when transactional and ours (sentinels); others are dropped.
- Batches end at `target` bytes, or when the caller asks for it because nothing more is at hand;
  a message larger than `limit` is cut into fragments over several batches.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from services.shared.model import MESSAGE_PREFIX, ErrorKind, Lsn, PgmigError
from services.shared.wire.changes import FRAME_HEADER, ChangeBatch, frame

TARGET_BYTES = 128 << 10
LIMIT_BYTES = 512 << 10
_U64 = struct.Struct(">Q")
_BEGIN, _COMMIT, _ORIGIN, _RELATION, _TYPE, _INSERT, _UPDATE, _DELETE, _TRUNCATE, _MESSAGE = b"BCORYIUDTM"
_OUR_MESSAGE = MESSAGE_PREFIX.encode() + b"\0"


class Batcher:
    """Turns the messages of one replication session into change batches.

    target, limit: bytes; `limit` leaves room for a commit beyond `target`.
    """

    def __init__(self, position: Lsn, *, target: int = TARGET_BYTES, limit: int = LIMIT_BYTES) -> None:
        self.position = position  # end of the last transaction (or heartbeat) that was batched
        self.in_transaction = False
        self._target = target
        self._limit = limit
        self._resume = position.value
        self._skipping = False
        self._relations: dict[bytes, bytes] = {}
        self._known: set[bytes] = set()  # relations described in the current batch
        self._chunks: list[bytes] = []
        self._size = 0
        self._previous = position
        self._continues = False  # the current batch began inside a transaction
        self._began_at: int | None = None  # where in it the last transaction begins
        self._number = 0

    @property
    def pending(self) -> bool:
        """Whether an unfinished batch holds anything."""
        return bool(self._chunks)

    def feed(self, message: bytes) -> Iterable[ChangeBatch]:
        """Take one pgoutput message; the batches that it completes, usually none. Take them all
        before the next message: those of a large one are cut as they are taken."""
        kind = message[0]
        if kind == _RELATION:
            oid = message[1:5]
            self._relations[oid] = message
            self._known.discard(oid)
            return ()
        if kind == _TYPE:
            return ()
        if kind == _BEGIN:
            self.in_transaction = True
            self._skipping = _U64.unpack_from(message, 1)[0] < self._resume
            if not self._skipping:
                self._began_at = len(self._chunks)
                self._add(message)
            return ()
        if kind == _COMMIT:
            return self._commit(message)
        if self._skipping or (kind == _MESSAGE and not self._is_ours(message)):
            return ()
        if kind in (_INSERT, _UPDATE, _DELETE):
            self._describe(message[1:5])
        elif kind == _TRUNCATE:
            for at in range(6, len(message), 4):
                self._describe(message[at : at + 4])
        elif kind not in (_MESSAGE, _ORIGIN):
            raise PgmigError(ErrorKind.CORRUPT, f"the source sent an unknown message type {chr(kind)!r}")
        self._add(message)
        return self._full()

    def _is_ours(self, message: bytes) -> bool:
        """Transactional (flag 1) and with our prefix, which follows flags and LSN."""
        return self.in_transaction and message[1] & 1 == 1 and message.startswith(_OUR_MESSAGE, 10)

    def _commit(self, message: bytes) -> Iterable[ChangeBatch]:
        self.in_transaction = False
        end = Lsn(_U64.unpack_from(message, 10)[0])
        if self._skipping:
            self._skipping = False
            return ()
        self._add(message)
        self.position = end
        return self._full()

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

    def _full(self) -> Iterable[ChangeBatch]:
        return self.flush() if self._size >= self._target else ()

    def flush(self) -> Iterable[ChangeBatch]:
        """End the current batch, if it holds anything. One beyond `limit` is cut: first what was
        committed, then the transaction under way in pieces, inside a message if need be."""
        if not self._chunks:
            return ()
        chunks, began_at, size = self._chunks, self._began_at or 0, self._size
        self._chunks, self._began_at, self._size = [], None, 0
        self._known.clear()
        if size <= self._limit:
            return (self._batch(b"".join(chunks)),)
        return self._pieces(chunks, began_at)

    def _batch(
        self,
        payload: bytes,
        *,
        open_transaction: bool | None = None,
        fragment: tuple[bool, bool] = (False, False),
    ) -> ChangeBatch:
        """The next batch. fragment: whether it begins and ends inside a message."""
        opened = self.in_transaction if open_transaction is None else open_transaction
        batch = ChangeBatch(
            previous_lsn=self._previous,
            end_lsn=self.position,
            payload=payload,
            continues_transaction=self._continues,
            open_transaction=opened,
            continues_frame=fragment[0],
            open_frame=fragment[1],
            number=self._number,
        )
        self._number += 1
        self._previous = self.position
        self._continues = opened
        return batch

    def _pieces(self, chunks: list[bytes], began_at: int) -> Iterator[ChangeBatch]:
        """Only a message inside a transaction makes a batch this large. Copies one piece at a time."""
        if began_at:
            yield self._batch(b"".join(chunks[:began_at]), open_transaction=False)
        piece: list[bytes | memoryview] = []
        room, inside = self._limit, False
        for number, chunk in enumerate(chunks[began_at:]):
            rest = memoryview(chunk)
            while rest:
                piece.append(rest[:room])
                room -= len(piece[-1])
                rest = rest[len(piece[-1]) :]
                if room == 0:
                    ends_inside = bool(rest) or number % 2 == 0  # even chunks are the lengths
                    yield self._batch(b"".join(piece), fragment=(inside, ends_inside))
                    piece, room, inside = [], self._limit, ends_inside
        if piece:
            yield self._batch(b"".join(piece), fragment=(inside, False))

    def heartbeat(self, wal_end: Lsn) -> ChangeBatch | None:
        """Progress without data: None unless idle and `wal_end` is news (rule 6)."""
        if self.in_transaction or self._chunks or wal_end <= self.position:
            return None
        batch = ChangeBatch(previous_lsn=self.position, end_lsn=wal_end, heartbeat=True, number=self._number)
        self._number += 1
        self.position = self._previous = wal_end
        return batch
