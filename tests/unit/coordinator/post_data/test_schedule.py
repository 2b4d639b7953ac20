"""What may begin when: rows first, then what a task comes after, the largest table first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.coordinator.post_data.schedule import Schedule, Task, table_tasks
from services.coordinator.post_data.task_pool import TaskPool
from services.shared.model import ErrorKind, PgmigError, TableId
from services.shared.pg.schema.post_data import Item, TableItems

A, B = TableId("public", "a"), TableId("public", "b")


def item(name: str, *, late: bool = False) -> Item:
    return Item(name, name.encode(), late=late)


def tasks(table: TableId, *, late: bool = False) -> list[Task]:
    builds = (item(f"{table.name}1"), item(f"{table.name}2", late=late))
    return table_tasks(TableItems(table, builds, (item(f"{table.name} adopt"),)), item(f"{table.name} stat"))


def begun(schedule: Schedule) -> list[Task]:
    found = []
    while (task := schedule.take()) is not None:
        found.append(task)
    return found


def names(found: list[Task]) -> list[str]:
    return [one.label for task in found for items in task.transactions for one in items]


def test_nothing_begins_before_its_tables_rows_are_there() -> None:
    schedule = Schedule([*tasks(A), *tasks(B)])
    assert schedule.take() is None
    schedule.table_is(B, complete=True)
    assert names(begun(schedule)) == ["b1", "b2"]
    assert not schedule.over


def test_builds_run_side_by_side_and_the_rest_of_the_table_after_the_last() -> None:
    schedule = Schedule(tasks(A))
    schedule.all_are_complete()
    first, second = begun(schedule)
    schedule.finished(second)
    assert schedule.take() is None
    schedule.finished(first)
    (finish,) = begun(schedule)
    assert names([finish]) == ["a adopt"]
    schedule.finished(finish)
    (analysis,) = begun(schedule)
    schedule.finished(analysis)
    assert names([analysis]) == ["a stat"]
    assert schedule.over


def test_a_table_at_once_is_one_transaction_as_far_as_it_needs_no_other_table() -> None:
    indexes, adopt, statistics = (item("a1"), item("a2")), (item("adopt"),), item("statistics")
    (task,) = table_tasks(TableItems(A, indexes, adopt), statistics, at_once=True)
    assert (task.table, task.transactions) == (A, ((*indexes, *adopt, statistics),))
    late = item("statistics", late=True)
    own, after = table_tasks(TableItems(A, indexes, adopt), late, at_once=True)
    assert (own.table, own.transactions) == (A, ((*indexes, *adopt),))
    assert after.transactions == ((late,),)
    assert (after.table, set(after.after)) == (None, {own.key})
    assert tasks(A, late=True) == table_tasks(
        TableItems(A, (item("a1"), item("a2", late=True)), (item("a adopt"),)), item("a stat"), at_once=True
    )


def test_what_may_look_at_other_tables_waits_for_all() -> None:
    schedule = Schedule(tasks(A, late=True))
    schedule.table_is(A, complete=True)
    assert names(begun(schedule)) == ["a1"]
    schedule.all_are_complete()
    assert names(begun(schedule)) == ["a2"]


def test_a_table_that_is_emptied_again_waits_again() -> None:
    schedule = Schedule(tasks(A))
    schedule.table_is(A, complete=True)
    schedule.table_is(A, complete=False)
    assert schedule.take() is None
    schedule.table_is(A, complete=True)
    assert names(begun(schedule)) == ["a1", "a2"]


def test_the_largest_table_comes_first() -> None:
    schedule = Schedule([*tasks(A), *tasks(B)], {A: 1, B: 2})
    schedule.all_are_complete()
    assert names(begun(schedule)) == ["b1", "b2", "a1", "a2"]


def test_failure_takes_along_what_comes_after_and_nothing_else() -> None:
    schedule = Schedule([*tasks(A), *tasks(B)])
    schedule.all_are_complete()
    first, *others = begun(schedule)
    schedule.failed(first)
    for task in others:
        schedule.finished(task)
    ended = names(others)
    while more := begun(schedule):
        ended += names(more)
        for task in more:
            schedule.finished(task)
    assert ended == ["a2", "b1", "b2", "b adopt", "b stat"]
    assert schedule.over


@asynccontextmanager
async def session() -> AsyncIterator[None]:
    yield


async def test_a_task_pool_finishes_independent_items_before_it_reports_a_failure() -> None:
    schedule = Schedule([*tasks(A), *tasks(B)])
    schedule.all_are_complete()
    done = []

    async def run(_: None, items: tuple[Item, ...]) -> None:
        (one,) = items
        if one.label == "a1":
            raise PgmigError(ErrorKind.SCHEMA_FAILED, "no")
        done.append(one.label)

    with pytest.raises(ExceptionGroup) as caught:
        await TaskPool(schedule, session, run).work_off(2)
    assert [str(exc) for exc in caught.value.exceptions] == ["no"]
    assert sorted(done) == ["a2", "b adopt", "b stat", "b1", "b2"]


async def test_a_task_pool_starts_nothing_more_after_a_transient_error() -> None:
    schedule = Schedule([*tasks(A), *tasks(B)])
    schedule.all_are_complete()

    async def run(_: None, items: tuple[Item, ...]) -> None:
        (one,) = items
        raise PgmigError(ErrorKind.UNREACHABLE, one.label)

    with pytest.raises(ExceptionGroup) as caught:
        await TaskPool(schedule, session, run).work_off(1)
    assert [str(exc) for exc in caught.value.exceptions] == ["a1"]


async def test_a_task_pool_waits_for_tables_and_respects_its_limit() -> None:
    schedule = Schedule([*tasks(A), *tasks(B)])
    busy, most, done = 0, 0, 0

    async def run(_: None, _items: tuple[Item, ...]) -> None:
        nonlocal busy, most, done
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0)
        busy -= 1
        done += 1

    pool = TaskPool(schedule, session, run)
    working = asyncio.create_task(pool.work_off(2))
    for table in (A, B):
        schedule.table_is(table, complete=True)
        pool.wake()
        await asyncio.sleep(0)
    schedule.all_are_complete()
    pool.wake()
    await working
    assert (most, done) == (2, 8)
