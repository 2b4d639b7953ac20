"""Batcher to assembler through the wire codec: any cut of the stream gives back whole transactions."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.applier.assembler import Assembler, Discard, Heartbeat, Item, Whole
from services.decoder.batcher import Batcher
from services.decoder.stream import BUSY_PAUSE_S, COALESCE_S, FAST_PAUSE_S, FULL, pause_after
from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.pgoutput import Begin, Commit, Insert, Message, Relation, Truncate
from services.shared.pgoutput.fragments import HEAD, LONG, Fragment, cut
from services.shared.wire.changes import ChangeBatch, decode_batch, encode_batch

START = Lsn(1000)
OID = 77


def begin(final: int, xid: int = 5) -> bytes:
    return struct.pack(">cQQI", b"B", final, 0, xid)


def commit(final: int, end: int) -> bytes:
    return struct.pack(">cBQQQ", b"C", 0, final, end, 0)


def relation(oid: int = OID, column: bytes = b"v") -> bytes:
    columns = b"\x01" + column + b"\0" + struct.pack(">Ii", 25, -1)
    return struct.pack(">cI", b"R", oid) + b"public\0t\0d" + struct.pack(">H", 1) + columns


def insert(value: bytes, oid: int = OID) -> bytes:
    return struct.pack(">cIcHcI", b"I", oid, b"N", 1, b"t", len(value)) + value


def logical(prefix: bytes, content: bytes, *, transactional: bool = True) -> bytes:
    head = struct.pack(">cBQ", b"M", 1 if transactional else 0, 1)
    return head + prefix + b"\0" + struct.pack(">I", len(content)) + content


@dataclass(frozen=True)
class Transaction:
    """final: LSN of the commit record; it ends 8 bytes later."""

    final: int
    values: tuple[bytes, ...]

    @property
    def end(self) -> int:
        return self.final + 8

    def messages(self) -> list[bytes]:
        rows = [insert(value) for value in self.values]
        return [begin(self.final), *rows, commit(self.final, self.end)]


def through_the_wire(batches: Iterable[ChangeBatch]) -> list[ChangeBatch]:
    return [decode_batch(encode_batch(batch)) for batch in batches]


def batched(batcher: Batcher, messages: Iterable[bytes], long: int = LONG) -> list[ChangeBatch]:
    """long: bytes beyond which a message comes in fragments."""
    items: list[bytes | Fragment] = []
    for message in messages:
        items += cut(message, long) if len(message) > max(long, HEAD) else [message]
    found: list[ChangeBatch | None] = []
    at = 0
    while at < len(items):
        at = batcher.collect(items, at)
        if at < len(items) and not batcher.full:
            item = items[at]
            at += 1
            if isinstance(item, Fragment):
                batcher.feed_fragment(item)
            else:
                batcher.feed(item)
        if batcher.full:
            found.append(batcher.flush())
    found.append(batcher.flush())
    return through_the_wire(batch for batch in found if batch is not None)


def items_of(assembler: Assembler, batch: ChangeBatch) -> list[Item]:
    """One after the other, those of whole transactions too."""
    found: list[Item] = []
    for item in assembler.feed(batch):
        found += item.apart() if isinstance(item, Whole) else [item]
    return found


def transactions(assembler: Assembler, batches: Iterable[ChangeBatch]) -> list[Transaction]:
    """Whole transactions that come out, discarded ones left out."""
    found: list[Transaction] = []
    values: list[bytes] = []
    final = 0
    for batch in batches:
        for item in items_of(assembler, batch):
            match item:
                case Begin():
                    values, final = [], item.final_lsn
                case list():
                    for change in item:
                        assert isinstance(change, Insert)
                        assert isinstance(change.new[0], bytes)
                        values.append(change.new[0])
                case Commit():
                    assert item.commit_lsn == final
                    found.append(Transaction(final, tuple(values)))
                case Discard():
                    values, final = [], 0
                case _:
                    assert isinstance(item, Relation)
    return found


histories = st.lists(
    st.lists(st.binary(max_size=60) | st.binary(min_size=60, max_size=400), max_size=8),
    min_size=1,
    max_size=8,
).map(lambda groups: [Transaction(START.value + 16 * n, tuple(values)) for n, values in enumerate(groups)])


@given(history=histories, target=st.integers(1, 200), long=st.integers(1, 150))
def test_every_transaction_comes_out_whole_however_it_is_cut(
    history: list[Transaction], target: int, long: int
) -> None:
    messages = [relation(), *(message for one in history for message in one.messages())]
    batches = batched(Batcher(START, target=target), messages, long)
    assert transactions(Assembler(START), batches) == history


@given(history=histories, target=st.integers(1, 120), data=st.data())
def test_a_writer_that_dies_anywhere_is_continued_without_loss_or_repetition(
    history: list[Transaction], target: int, data: st.DataObject
) -> None:
    messages = [relation(), *(message for one in history for message in one.messages())]
    stored = batched(Batcher(START, target=target), messages, target)
    stored = stored[: data.draw(st.integers(0, len(stored)))]
    position = stored[-1].end_lsn if stored else START
    again = batched(Batcher(position, target=target), messages)
    assert transactions(Assembler(START), [*stored, *again]) == history


@given(history=histories, target=st.integers(1, 120), data=st.data())
def test_a_reader_that_restarts_anywhere_passes_over_what_it_has(
    history: list[Transaction], target: int, data: st.DataObject
) -> None:
    messages = [relation(), *(message for one in history for message in one.messages())]
    batches = batched(Batcher(START, target=target), messages, target)
    applied = data.draw(st.integers(0, len(history)))
    progress = Lsn(history[applied - 1].end) if applied else START
    # Trimming keeps the message in which the last flushed transaction ends.
    ends = [n for n, batch in enumerate(batches) if batch.end_lsn >= progress]
    first = data.draw(st.integers(0, ends[0])) if applied and ends else 0
    assert transactions(Assembler(progress), batches[first:]) == history[applied:]


def test_transactions_are_keyed_by_commit_and_not_by_begin() -> None:
    late, early = begin(2000, xid=5), begin(1900, xid=6)  # xid 5 began first, 6 committed first
    messages = [early, commit(1900, 1908), late, commit(2000, 2008)]
    assert [t.final for t in transactions(Assembler(START), batched(Batcher(START), messages))] == [
        1900,
        2000,
    ]


def test_only_transactions_that_need_checks_are_read_one_by_one() -> None:
    one, two, three = (Transaction(START.value + 16 * n, (b"a", b"b")) for n in range(3))
    messages = [relation(), *one.messages(), *two.messages(), *three.messages()]
    (batch,) = batched(Batcher(START), messages)
    items = list(Assembler(START).feed(batch))
    assert [type(item) for item in items] == [Begin, Relation, list, Commit, Whole]
    assert isinstance(items[-1], Whole)
    assert [(t.commit_lsn, t.end_lsn, t.stop) for t in items[-1].transactions] == [
        (two.final, two.end, 2),
        (three.final, three.end, 4),
    ]


def test_a_run_begins_after_what_is_already_applied() -> None:
    one, two, three = history = [Transaction(START.value + 16 * n, (b"a",)) for n in range(3)]
    messages = [relation(), *(message for each in history for message in each.messages())]
    (batch,) = batched(Batcher(START), messages)
    assert transactions(Assembler(Lsn(one.end)), [batch]) == [two, three]
    assert transactions(Assembler(Lsn(two.end)), [batch]) == [three]


def test_every_batch_describes_the_relations_that_it_uses() -> None:
    one, two = Transaction(1000, (b"a",)), Transaction(1016, (b"b",))
    batcher = Batcher(START)
    batched(batcher, [relation(), *one.messages()])
    (second,) = batched(batcher, two.messages())
    kinds = [type(item) for item in Assembler(Lsn(one.end)).feed(second)]
    assert kinds == [Begin, Relation, list, Commit]


def test_an_altered_relation_is_described_again_in_the_same_batch() -> None:
    messages = [
        relation(),
        *Transaction(1000, (b"a",)).messages(),
        relation(column=b"renamed"),
        *Transaction(1016, (b"b",)).messages(),
    ]
    (batch,) = batched(Batcher(START), messages)
    names = [i.columns[0].name for i in Assembler(START).feed(batch) if isinstance(i, Relation)]
    assert names == ["v", "renamed"]


def test_truncate_describes_all_its_relations() -> None:
    truncate = struct.pack(">cIBII", b"T", 2, 0, 77, 78)
    messages = [relation(77), relation(78), begin(1000), truncate, commit(1000, 1008)]
    (batch,) = batched(Batcher(START), messages)
    items = list(Assembler(START).feed(batch))
    assert [i.oid for i in items if isinstance(i, Relation)] == [77, 78]
    assert any(isinstance(i, Truncate) for i in items)


def test_only_our_own_transactional_messages_travel() -> None:
    messages = [
        logical(b"pgmig", b"outside", transactional=False),
        begin(1000),
        logical(b"other", b"x"),
        logical(b"pgmig", b"not transactional", transactional=False),
        logical(b"pgmig", b"sentinel"),
        commit(1000, 1008),
    ]
    (batch,) = batched(Batcher(START), messages)
    assert [i.content for i in Assembler(START).feed(batch) if isinstance(i, Message)] == [b"sentinel"]


def test_a_heartbeat_waits_for_what_is_under_way() -> None:
    batcher = Batcher(START)
    assert batcher.heartbeat(START) is None, "no news"
    batcher.feed(begin(1000))
    assert batcher.heartbeat(Lsn(5000)) is None, "a transaction is half read"
    batcher.feed(commit(1000, 1008))
    assert batcher.heartbeat(Lsn(5000)) is None, "a transaction is not batched yet"
    batched(batcher, [])
    beat = batcher.heartbeat(Lsn(5000))
    assert beat is not None
    assert list(Assembler(Lsn(1008)).feed(decode_batch(encode_batch(beat)))) == [Heartbeat(Lsn(5000))]
    assert batcher.heartbeat(Lsn(5000)) is None


def test_a_break_in_the_chain_is_a_gap_that_names_both_positions() -> None:
    (first,) = batched(Batcher(START), [begin(1000), commit(1000, 1008)])
    (later,) = batched(Batcher(Lsn(3000)), [begin(3000), commit(3000, 3008)])
    assembler = Assembler(START)
    list(assembler.feed(first))
    with pytest.raises(PgmigError) as caught:
        list(assembler.feed(later))
    assert caught.value.kind is ErrorKind.GAP
    assert str(Lsn(1008)) in caught.value.message
    assert str(Lsn(3000)) in caught.value.message


def test_a_break_that_progress_covers_is_none() -> None:
    (later,) = batched(Batcher(Lsn(3000)), [begin(3000), commit(3000, 3008)])
    assert len(transactions(Assembler(Lsn(3000)), [later])) == 1


def test_a_stream_trimmed_inside_a_needed_transaction_is_a_gap() -> None:
    messages = [relation(), *Transaction(1000, (b"a" * 50, b"b" * 50)).messages()]
    batches = batched(Batcher(START, target=40), messages)
    with pytest.raises(PgmigError) as caught:
        transactions(Assembler(START), batches[1:])
    assert caught.value.kind is ErrorKind.GAP


@given(data=st.binary(max_size=300))
def test_bytes_that_are_no_batch_are_refused(data: bytes) -> None:
    with pytest.raises(PgmigError) as caught:
        decode_batch(data)
    assert caught.value.kind is ErrorKind.CORRUPT


@given(history=histories, data=st.data())
def test_damaged_payloads_are_refused_by_the_checksum(
    history: list[Transaction], data: st.DataObject
) -> None:
    messages = [relation(), *(message for one in history for message in one.messages())]
    (batch,) = batched(Batcher(START, target=1 << 20), messages)
    good = encode_batch(batch)
    at = good.index(batch.payload) + data.draw(st.integers(0, len(batch.payload) - 1))
    damaged = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    with pytest.raises(PgmigError):
        decode_batch(damaged)


def test_reordered_and_missing_batches_are_refused() -> None:
    messages = [relation(), *Transaction(1000, (b"a" * 50, b"b" * 50, b"c" * 50)).messages()]
    batches = batched(Batcher(START, target=40), messages)
    for wrong in ([batches[0], batches[2], batches[1]], [batches[0], batches[-1]], batches[:1] * 2):
        found = []
        try:
            found = transactions(Assembler(START), wrong)
        except PgmigError as exc:
            assert exc.kind in {ErrorKind.CORRUPT, ErrorKind.GAP}
        assert all(t.values == (b"a" * 50, b"b" * 50, b"c" * 50) for t in found)


@pytest.mark.parametrize(
    ("messages", "size", "elapsed_s", "pause"),
    [
        (6, 900, 0.002, COALESCE_S),  # 500 transactions a second
        (6, 900, 0.0001, COALESCE_S),  # one transaction after silence
        (40, 4000, 0.002, BUSY_PAUSE_S),
        (2000, 300_000, 0.02, FAST_PAUSE_S),
        (4000, FULL, 0.02, 0.0),  # behind
    ],
)
def test_the_walsender_is_read_less_often_the_more_it_sends(
    messages: int, size: int, elapsed_s: float, pause: float
) -> None:
    assert pause_after(messages, size, elapsed_s) == pause
