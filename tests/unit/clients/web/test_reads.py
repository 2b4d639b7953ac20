"""Reads of a coordinator: equal ones are made once, and only a few at the same time."""

from __future__ import annotations

import asyncio

import pytest

from clients.web.reads import READS, Reads


class Coordinator:
    """Answers when it may."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.was_asked = asyncio.Event()

    async def read(self) -> int:
        self.asked += 1
        self.was_asked.set()
        await self.may_answer.wait()
        return self.asked


async def test_equal_reads_at_the_same_time_are_made_once() -> None:
    reads, coordinator = Reads(), Coordinator()
    both = [asyncio.create_task(reads.get("m", coordinator.read)) for _ in range(2)]
    await coordinator.was_asked.wait()
    coordinator.may_answer.set()
    assert await asyncio.gather(*both) == [1, 1]
    assert await reads.get("m", coordinator.read) == 2  # one that begins later sees what is true then


async def test_a_call_that_is_cancelled_leaves_the_others() -> None:
    reads, coordinator = Reads(), Coordinator()
    first = asyncio.create_task(reads.get("m", coordinator.read))
    await coordinator.was_asked.wait()
    second = asyncio.create_task(reads.get("m", coordinator.read))
    first.cancel()
    await asyncio.wait({first})
    coordinator.may_answer.set()
    assert await second == 1


async def test_an_answer_is_kept_as_long_as_was_asked() -> None:
    now = 100.0
    reads, coordinator = Reads(lambda: now), Coordinator()
    coordinator.may_answer.set()
    assert await reads.get("m", coordinator.read, 1.0) == 1
    now = 100.9
    assert await reads.get("m", coordinator.read, 1.0) == 1
    assert await reads.get("other", coordinator.read, 1.0) == 2
    now = 101.5
    assert await reads.get("m", coordinator.read, 1.0) == 3


async def test_errors_are_not_kept() -> None:
    reads, coordinator = Reads(), Coordinator()
    coordinator.may_answer.set()

    async def fails() -> int:
        raise ValueError

    with pytest.raises(ValueError):
        await reads.get("m", fails, 1.0)
    assert await reads.get("m", coordinator.read, 1.0) == 1


async def test_only_a_few_are_made_at_the_same_time() -> None:
    reads, coordinator = Reads(), Coordinator()
    tasks = [asyncio.create_task(reads.get(number, coordinator.read)) for number in range(3 * READS)]
    for _ in range(3 * READS):  # every task gets its turn
        await asyncio.wait({asyncio.create_task(asyncio.sleep(0))})
    assert coordinator.asked == READS
    coordinator.may_answer.set()
    await asyncio.gather(*tasks)
    assert coordinator.asked == 3 * READS
