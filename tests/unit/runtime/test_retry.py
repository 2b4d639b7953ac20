"""What is tried again, how long it waits, and when it stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from services.shared.model import ErrorKind, PgmigError
from services.shared.runtime import retry as module
from services.shared.runtime.retry import retrying


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that were asked for; none is waited."""
    asked: list[float] = []

    async def note(seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr("services.shared.runtime.retry.sleep", note)
    return asked


def failing(times: int, error: Exception) -> Callable[[], Awaitable[int]]:
    """An operation that fails so often, then returns how often it was called."""
    calls = 0

    async def operation() -> int:
        nonlocal calls
        calls += 1
        if calls <= times:
            raise error
        return calls

    return operation


TRANSIENT = PgmigError(ErrorKind.TRANSIENT, "deadlock detected")


async def test_a_transient_error_is_retried_until_it_is_gone(waits: list[float]) -> None:
    assert await retrying("applying", failing(40, TRANSIENT)) == 41
    assert len(waits) == 40


async def test_waits_grow_with_jitter_up_to_the_longest(waits: list[float]) -> None:
    operation = failing(12, TRANSIENT)
    await retrying("applying", operation, first_wait_s=1, longest_wait_s=8)
    for wait, bound in zip(waits, [1, 2, 4, 8, 8, 8, 8, 8, 8, 8, 8, 8], strict=True):
        assert bound / 2 <= wait <= bound


@pytest.mark.parametrize("error", [PgmigError(ErrorKind.APPLY_FAILED, "x"), ValueError("x")])
async def test_a_permanent_error_is_raised_at_once(waits: list[float], error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        await retrying("applying", failing(1, error))
    assert caught.value is error
    assert waits == []


async def test_it_gives_up_with_the_last_error_when_bounded(waits: list[float]) -> None:
    with pytest.raises(PgmigError) as caught:
        await retrying("applying", failing(5, TRANSIENT), give_up_after_s=0)
    assert caught.value is TRANSIENT
    assert waits == []


async def test_work_that_ran_well_for_a_while_starts_with_the_shortest_wait(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    calls = 0

    async def operation() -> None:
        nonlocal now, calls
        calls += 1
        if calls == 10:
            now += module.STEADY_S
        if calls <= 11:
            raise TRANSIENT

    await retrying("applying", operation, first_wait_s=1, longest_wait_s=1000)
    assert waits[8] > 100
    assert waits[9] <= 1
    assert waits[10] <= 2


async def test_every_attempt_is_logged(waits: list[float], caplog: pytest.LogCaptureFixture) -> None:
    await retrying("reading the slot of m1", failing(2, TRANSIENT))
    assert len(waits) == 2
    messages = [entry.message for entry in caplog.records]
    assert messages[0].startswith("reading the slot of m1 failed (attempt 1): deadlock detected; trying")
    assert len(messages) == 2


async def test_each_error_before_a_retry_is_reported(waits: list[float]) -> None:
    told: list[PgmigError] = []
    await retrying("applying", failing(2, TRANSIENT), on_failure=told.append)
    assert told == [TRANSIENT, TRANSIENT]
    fatal = PgmigError(ErrorKind.APPLY_FAILED, "x")
    with pytest.raises(PgmigError):
        await retrying("applying", failing(1, fatal), on_failure=told.append)
    assert fatal not in told
    assert len(waits) == 2


async def test_cancellation_ends_the_wait() -> None:
    failed = asyncio.Event()

    async def operation() -> None:
        failed.set()
        raise TRANSIENT

    task = asyncio.create_task(retrying("applying", operation, first_wait_s=600, longest_wait_s=600))
    await failed.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
