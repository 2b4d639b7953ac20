"""With `local_only`, transactions that have an origin are dropped, and no others."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.applier.assembler import Assembler, Heartbeat
from services.decoder.batcher import Batcher
from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.wire.changes import ChangeBatch
from tests.unit.wire.test_batches import (
    START,
    Transaction,
    begin,
    commit,
    insert,
    items_of,
    logical,
    relation,
    through_the_wire,
    transactions,
)

ORIGIN = struct.pack(">cQ", b"O", 1) + b"pgmig_shop\0"


@dataclass(frozen=True)
class Sent:
    """A transaction, and whether it has an origin."""

    transaction: Transaction
    foreign: bool

    def messages(self) -> list[bytes]:
        first, *rest = self.transaction.messages()
        return [first, *([ORIGIN] if self.foreign else []), *rest]


histories = st.lists(
    st.tuples(st.lists(st.binary(max_size=300), max_size=4), st.booleans()), min_size=1, max_size=10
).map(
    lambda groups: [
        Sent(Transaction(START.value + 16 * n, tuple(values)), foreign)
        for n, (values, foreign) in enumerate(groups)
    ]
)


def batched(batcher: Batcher, messages: Iterable[bytes], pauses: set[int]) -> list[ChangeBatch]:
    """As the decoder's reader does; pauses: numbers of messages after which nothing has arrived."""
    found: list[ChangeBatch] = []
    for number, message in enumerate(messages):
        if batcher.collect([message], 0) == 0:
            batcher.feed(message)
        while (batcher.full or number in pauses) and (batch := batcher.flush()) is not None:
            found.append(batch)
    while (batch := batcher.flush()) is not None:
        found.append(batch)
    return through_the_wire(found)


@given(
    history=histories, target=st.integers(1, 500), pauses=st.sets(st.integers(0, 60)), first=st.integers(0, 9)
)
def test_local_transactions_come_out_whole_and_no_others(
    history: list[Sent], target: int, pauses: set[int], first: int
) -> None:
    """first: how many transactions an earlier session has sent, on whose last batch this one continues."""
    earlier, later = history[:first], history[first:]
    batches: list[ChangeBatch] = []
    for part in (earlier, later):
        position = batches[-1].end_lsn if batches else START
        batcher = Batcher(position, target=target, local_only=True)
        messages = [relation(), *(message for one in part for message in one.messages())]
        batches += batched(batcher, messages, pauses)
        if part:
            assert batcher.position == Lsn(part[-1].transaction.end)
    came = transactions(Assembler(START), batches)
    local = [one.transaction for one in history if not one.foreign]
    foreign = {one.transaction.final for one in history if one.foreign}
    assert [one for one in came if one.final not in foreign] == local
    assert all(not one.values for one in came if one.final in foreign)


@given(history=histories)
def test_a_heartbeat_moves_the_progress_over_dropped_transactions(history: list[Sent]) -> None:
    batcher = Batcher(START, local_only=True)
    batches = batched(batcher, [relation(), *(m for one in history for m in one.messages())], set())
    end = Lsn(history[-1].transaction.end)
    heartbeat = batcher.heartbeat(end)
    assembler = Assembler(START)
    assert (heartbeat is None) == (not history[-1].foreign)
    for batch in [*batches, *([heartbeat] if heartbeat else [])]:
        items_of(assembler, batch)
    assert assembler.progress == end
    assert batcher.heartbeat(end) is None
    later = batcher.heartbeat(Lsn(end.value + 8))
    assert later is not None
    assert items_of(assembler, later) == [Heartbeat(later.end_lsn)]


def test_a_keepalive_from_before_a_dropped_transaction_moves_nothing_back() -> None:
    batcher = Batcher(START, local_only=True)
    batched(batcher, Sent(Transaction(2000, (b"x",)), foreign=True).messages(), set())
    assert batcher.heartbeat(Lsn(1500)) is None
    assert batcher.position == Lsn(2008)


def test_a_sentinel_of_the_other_side_is_dropped_with_its_transaction() -> None:
    sentinel = logical(b"pgmig", b"shop/reverse:token")
    messages = [begin(1000), ORIGIN, sentinel, commit(1000, 1008), begin(1016), sentinel, commit(1016, 1024)]
    (batch,) = batched(Batcher(START, local_only=True), messages, set())
    assert batch.payload.count(b"token") == 1
    assert batch.previous_lsn == START


def test_all_transactions_are_sent_without_the_option() -> None:
    history = [
        Sent(Transaction(1000, (b"x",)), foreign=True),
        Sent(Transaction(1016, (b"y",)), foreign=False),
    ]
    batches = batched(Batcher(START), [relation(), *(m for one in history for m in one.messages())], set())
    assert transactions(Assembler(START), batches) == [one.transaction for one in history]


def test_an_origin_within_a_transaction_is_an_error() -> None:
    """Its first changes may have been sent."""
    batcher = Batcher(START, local_only=True)
    with pytest.raises(PgmigError) as caught:
        batched(batcher, [relation(), begin(1000), insert(b"x"), ORIGIN], set())
    assert caught.value.kind is ErrorKind.CORRUPT
