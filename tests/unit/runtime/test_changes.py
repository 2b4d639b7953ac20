"""Waiting for a change."""

from __future__ import annotations

import asyncio

from services.shared.model import back_off_s
from services.shared.runtime.changes import Changes


async def test_an_announcement_wakes_all_that_wait_and_nobody_after_them() -> None:
    changes = Changes()
    waiting = [asyncio.ensure_future(changes.wait()) for _ in range(2)]
    await asyncio.sleep(0)
    changes.announce()
    await asyncio.gather(*waiting)
    late = asyncio.ensure_future(changes.wait())
    await asyncio.sleep(0)
    assert not late.done()
    late.cancel()


async def test_a_condition_is_looked_at_after_each_change() -> None:
    changes, seen = Changes(), list[int]()

    def third() -> bool:
        seen.append(len(seen))
        return len(seen) == 3

    waiting = asyncio.ensure_future(changes.until(third))
    for _ in range(2):
        await asyncio.sleep(0)
        changes.announce()
    await asyncio.wait_for(waiting, 10)
    assert seen == [0, 1, 2]


def test_the_wait_doubles_up_to_the_longest_one() -> None:
    waits = [back_off_s(0.5, 15.0, failures) for failures in (0, 1, 2, 4, 5, 10_000)]
    assert waits == [0.5, 1.0, 2.0, 8.0, 15.0, 15.0]
