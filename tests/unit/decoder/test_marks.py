"""The stream says what the publisher has applied of the opposite pipeline, in order with its own
transactions."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from services.applier.assembler import Assembler, Heartbeat
from services.decoder.batcher import Batcher
from services.decoder.marks import Marks
from services.shared.model import Lsn
from services.shared.pgoutput import Begin, Commit, Message
from services.shared.wire.changes import ChangeBatch
from tests.unit.wire.test_batches import START, commit, insert, items_of, logical, relation, through_the_wire

EPOCH_US = 946_684_800_000_000
OPPOSITE = "pgmig__reverse_shop"


def begin(final: int, committed_at: int = EPOCH_US) -> bytes:
    return struct.pack(">cQqI", b"B", final, committed_at - EPOCH_US, 5)


def origin(name: str) -> bytes:
    return struct.pack(">cQ", b"O", 1) + name.encode() + b"\0"


def applied(final: int, committed_at: int, by: str = OPPOSITE) -> list[bytes]:
    """A transaction that an applier has written."""
    return [begin(final, committed_at), origin(by), insert(b"foreign"), commit(final, final + 8)]


def local(final: int, *values: bytes) -> list[bytes]:
    return [begin(final), *(insert(value) for value in values), commit(final, final + 8)]


def batched(batcher: Batcher, messages: Iterable[bytes], pauses: Iterable[int] = ()) -> list[ChangeBatch]:
    found: list[ChangeBatch] = []
    for number, message in enumerate(messages):
        if batcher.collect([message], 0) == 0:
            batcher.feed(message)
        while (batcher.full or number in pauses) and (batch := batcher.flush()) is not None:
            found.append(batch)
    while (batch := batcher.flush()) is not None:
        found.append(batch)
    return through_the_wire(found)


def batcher_with_marks(target: int = 1000) -> Batcher:
    return Batcher(START, target=target, local_only=True, marks=Marks(OPPOSITE))


def seen_by(batches: Iterable[ChangeBatch]) -> list[tuple[int, int]]:
    """Each transaction of the stream by the LSN of its commit record, and what it has seen."""
    found, seen = [], 0
    assembler = Assembler(START)
    for batch in batches:
        for item in items_of(assembler, batch):
            match item:
                case Message():
                    seen = int(item.content.removeprefix(b"seen "))
                case Heartbeat():
                    seen = max(seen, item.seen)
                case Commit():
                    found.append((item.commit_lsn, seen))
                case Begin() | list():
                    pass
    return found


@given(
    history=st.lists(
        st.tuples(st.sampled_from(["local", "applied", "elsewhere"]), st.integers(1, 50), st.integers(0, 3)),
        max_size=12,
    ),
    target=st.integers(1, 300),
    pauses=st.sets(st.integers(0, 60)),
)
def test_a_local_transaction_has_seen_what_was_committed_here_before_it(
    history: list[tuple[str, int, int]], target: int, pauses: set[int]
) -> None:
    messages, expected, seen = [relation()], [], 0
    for n, (kind, time, rows) in enumerate(history):
        final = START.value + 16 * n
        if kind == "local":
            messages += local(final, *[b"x"] * rows)
            expected.append((final, seen))
        else:
            messages += applied(final, EPOCH_US + time, OPPOSITE if kind == "applied" else "elsewhere")
            if kind == "applied":
                seen = max(seen, EPOCH_US + time)
    found = dict(seen_by(batched(batcher_with_marks(target), messages, pauses)))
    # A transaction that was dropped after a batch had ended behind its Begin is an empty one in the stream.
    assert [(final, found[final]) for final, _ in expected] == expected


def test_a_heartbeat_carries_what_no_local_transaction_could() -> None:
    batcher = batcher_with_marks()
    assert batched(batcher, [relation(), *applied(2000, EPOCH_US + 77)]) == []
    heartbeat = batcher.heartbeat(Lsn(2008))
    assert heartbeat is not None
    assert heartbeat.seen == EPOCH_US + 77
    assert seen_by([*through_the_wire([heartbeat]), *batched(batcher, local(2016, b"x"))]) == [
        (2016, EPOCH_US + 77)
    ]


def test_a_mark_is_not_published_alone() -> None:
    batcher = batcher_with_marks()
    assert batched(batcher, applied(2000, EPOCH_US + 1)) == []
    assert batcher.flush() is None


def test_no_source_can_send_a_mark() -> None:
    forged = logical(b"pgmig", b"seen 9000000000000000")
    messages = [relation(), begin(2000), forged, insert(b"x"), commit(2000, 2008)]
    assert seen_by(batched(batcher_with_marks(), messages)) == [(2000, 0)]


def test_without_the_option_there_are_no_marks() -> None:
    batcher = Batcher(START, local_only=True)
    messages = [relation(), *applied(2000, EPOCH_US + 1), *local(2016, b"x")]
    assert seen_by(batched(batcher, messages)) == [(2016, 0)]
