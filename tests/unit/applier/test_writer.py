"""When the applier's writer commits, and when it tells of a sentinel."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

import pytest

from services.applier.chunks import ChunkQueue
from services.applier.planner import Chunk, Sentinel
from services.applier.writer import Totals, Writer
from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.pg.apply.refusal import RefusedError
from services.shared.pg.apply.session import ApplySession
from services.shared.pg.apply.target_table import Operation
from services.shared.pgoutput import Transaction


class RecordingSession:
    """Remembers what it is asked to do, in order. outcomes: errors of the first executions; None: fine."""

    def __init__(self, *outcomes: PgmigError | None) -> None:
        self.done: list[str] = []
        self._outcomes = list(outcomes)
        self.flushed = Lsn(0)
        self.all_flushed = True
        self.rests = asyncio.Event()

    async def execute(self, _operations: Sequence[Operation], *, durable: bool = False) -> None:
        self.done.append("execute durably" if durable else "execute")
        error = self._outcomes.pop(0) if self._outcomes else None
        if error is not None:
            raise error

    def commit(self, end: Lsn, _time: int) -> None:
        self.done.append(f"commit {end}")

    async def send_commit(self) -> None:
        self.done.append("send_commit")

    async def poll_flush(self) -> Lsn:
        self.rests.set()
        return self.flushed

    async def await_flush(self) -> None:
        self.done.append("flushed")

    async def rollback(self) -> None:
        self.done.append("rollback")


async def written(*chunks: Chunk) -> list[str]:
    """What a writer does about chunks that are all at hand, up to the first rest."""
    session = RecordingSession()
    queue = ChunkQueue()
    for chunk in chunks:
        await queue.put(chunk)
    writer = Writer(
        cast("ApplySession", session), Totals(), lambda one, end: session.done.append(f"{one.token} at {end}")
    )
    task = asyncio.create_task(writer.run(queue))
    async with asyncio.timeout(30):
        await session.rests.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    while session.done and session.done[-1] == "send_commit":
        session.done.pop()
    return session.done


def transaction(number: int) -> Transaction:
    return Transaction(number * 16, number * 16 + 8, 1, 0)


async def test_a_sentinel_counts_when_its_transaction_is_on_disk() -> None:
    done = await written(Chunk(16, transactions=[transaction(1)], sentinels=[Sentinel(16, "s")]))
    assert done == ["execute durably", "commit 0/18", "send_commit", "flushed", "s at 0/18"]


async def test_whole_transactions_at_hand_share_a_commit() -> None:
    done = await written(
        Chunk(16, transactions=[transaction(1)]), Chunk(48, transactions=[transaction(2), transaction(3)])
    )
    assert done == ["execute", "commit 0/38"]


async def test_a_large_transaction_commits_alone_and_once() -> None:
    done = await written(
        Chunk(16, transactions=[transaction(1)]),
        Chunk(32),
        Chunk(32),
        Chunk(32, transactions=[transaction(2)]),
        Chunk(48, transactions=[transaction(3)]),
    )
    assert done == [
        *("execute", "commit 0/18"),
        *("execute", "execute", "execute", "commit 0/28"),
        *("execute", "commit 0/38"),
    ]


async def test_a_half_published_transaction_is_rolled_back() -> None:
    done = await written(Chunk(32), Chunk(0, discard=True), Chunk(32, transactions=[transaction(2)]))
    assert done == ["execute", "rollback", "execute", "commit 0/28"]


async def test_a_refused_transaction_after_a_refused_group_is_found_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next group was prepared before it was known that each transaction must stand by itself."""
    monkeypatch.setattr("services.applier.writer.GROUP_STEPS", 0)
    denied = PgmigError(ErrorKind.PERMISSION, "denied")
    session = RecordingSession(RefusedError(ErrorKind.APPLY_FAILED, "refused"), None, None, denied)
    queue = ChunkQueue()
    await queue.put(Chunk(16, transactions=[transaction(1)]))
    await queue.put(Chunk(48, transactions=[transaction(2), transaction(3)]))
    writer = Writer(cast("ApplySession", session), Totals(), lambda _token, _end: None)
    with pytest.raises(PgmigError) as raised:
        await asyncio.wait_for(writer.run(queue), 10)
    assert raised.value.lsn == Lsn(48)
    assert [done for done in session.done if done.startswith("commit")] == ["commit 0/18", "commit 0/28"]


async def test_a_full_queue_makes_the_reader_wait() -> None:
    queue = ChunkQueue(capacity=2000)
    await queue.put(Chunk(1, bytes=1000))
    waiting = asyncio.create_task(queue.put(Chunk(2, bytes=1000)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done(), "a second does not fit"
    assert [chunk.commit_lsn for chunk in await queue.get()] == [1]
    await waiting
    assert [chunk.commit_lsn for chunk in await queue.get()] == [2]


async def test_nothing_is_read_after_a_chunk_larger_than_the_queue_until_it_is_written() -> None:
    queue = ChunkQueue(capacity=2000)
    waiting = asyncio.create_task(queue.put(Chunk(1, bytes=100_000)))
    assert [chunk.commit_lsn for chunk in await queue.get()] == [1]
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done(), "it is taken, but not written"
    asking = asyncio.create_task(queue.get())
    await waiting
    await queue.put(Chunk(2, bytes=10))
    assert [chunk.commit_lsn for chunk in await asking] == [2]
    assert await queue.get(timeout=0.01) == []
