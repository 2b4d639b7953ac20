"""Failpoints: which are accepted, and when they take place."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from services.coordinator.migration.failpoints import NAMES
from services.shared.model import ErrorKind, PgmigError
from services.shared.runtime import failpoints

KNOWN = ("a.b", "c")


@pytest.fixture(autouse=True)
def off() -> Iterator[None]:
    yield
    failpoints.arm("", ())


@pytest.mark.parametrize(
    "text", ["x=kill", "a.b", "a.b=", "a.b=explode", "a.b=kill@", "a.b=kill@0", "a.b=kill@x", "a.b=kill,c"]
)
def test_unknown_names_and_actions_are_refused(text: str) -> None:
    failpoints.arm("a.b=error", KNOWN)
    with pytest.raises(PgmigError, match="PGMIG_FAILPOINTS") as caught:
        failpoints.arm(text, KNOWN)
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
    assert caught.value.hint


async def test_nothing_happens_unless_it_is_armed() -> None:
    failpoints.arm(" , ", KNOWN)
    await failpoints.reached("a.b")


async def test_action_takes_place_once() -> None:
    failpoints.arm("a.b=error, c=error@3", KNOWN)
    with pytest.raises(PgmigError, match=r"failpoint a\.b"):
        await failpoints.reached("a.b")
    await failpoints.reached("a.b")
    for _ in range(2):
        await failpoints.reached("c")
    with pytest.raises(PgmigError, match="failpoint c"):
        await failpoints.reached("c")
    await failpoints.reached("c")


async def test_pause_ends_when_the_task_is_cancelled() -> None:
    failpoints.arm("c=pause", KNOWN)
    task = asyncio.create_task(failpoints.reached("c"))
    _, pending = await asyncio.wait({task}, timeout=0.05)
    assert pending
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


def test_names_of_the_coordinator() -> None:
    assert {"switchover.drain.begin", "switchover.commit.end", "switchover.decided"} <= NAMES
    assert "switchover.rollback.begin" not in NAMES
