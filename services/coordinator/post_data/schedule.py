"""Decides which task on the destination may begin now. The schedule is a graph of tasks.

A task may begin when the tasks in its `after` are finished and the rows that it needs are on the destination.
If several tasks may begin, the one on the largest table is first. If a task fails, all tasks that depend on
it are cancelled. The other tasks continue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from services.shared.model import TableId
from services.shared.pg.schema.post_data import Item, TableItems


@dataclass(frozen=True, slots=True)
class Task:
    """Work for one session. transactions: the items of each, in order. table: the table whose rows must be
    there; None: the rows of all tables. after: keys of tasks that must be finished before."""

    key: str
    transactions: tuple[tuple[Item, ...], ...]
    table: TableId | None = None
    after: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        return self.transactions[0][0].label


def one_by_one(key: str, items: Iterable[Item]) -> Task:
    """A task that runs each item in its own transaction, when the rows of all tables are there."""
    return Task(key, tuple((item,) for item in items))


def table_tasks(items: TableItems, analysis: Item, *, at_once: bool = False) -> list[Task]:
    """Tasks for one table: indexes in parallel, then the items that lock the table, then its statistics.
    at_once: all in one transaction, unless an item must wait for other tables."""
    table, whole = items.table, (*items.builds, *items.finish)
    if at_once and whole and not any(item.late for item in whole):
        if not analysis.late:
            return [_task(f"all of {table}", [(*whole, analysis)], table)]
        needed = [_task(f"all of {table}", [whole], table)]
    else:
        needed = [_task(item.step, [(item,)], table) for item in items.builds]
        if items.finish:
            builds = [task.key for task in needed]
            needed.append(_task(f"finish {table}", [(item,) for item in items.finish], table, builds))
    return [*needed, _task(analysis.step, [(analysis,)], table, [task.key for task in needed])]


def _task(
    key: str, transactions: Sequence[tuple[Item, ...]], table: TableId, after: Iterable[str] = ()
) -> Task:
    late = any(item.late for items in transactions for item in items)
    return Task(key, tuple(transactions), None if late else table, frozenset(after))


class Schedule:
    """sizes: sizes of the tables, in any unit."""

    def __init__(self, tasks: Sequence[Task], sizes: Mapping[TableId, int] | None = None) -> None:
        self._sizes = dict(sizes or {})
        self._complete: set[TableId | None] = set()
        self._all_complete = False
        self._closed = False
        self._running: dict[str, Task] = {}
        self._after: dict[str, list[Task]] = {}
        self._needs = {task.key: set(task.after) for task in tasks}  # for tasks that have not begun
        self._rowless: dict[TableId | None, list[Task]] = {}
        self._ready: list[tuple[int, int, Task]] = []
        self._number = count()
        for task in tasks:
            for key in task.after:
                self._after.setdefault(key, []).append(task)
            if not task.after:
                self._rowless.setdefault(task.table, []).append(task)

    def table_is(self, table: TableId, *, complete: bool) -> None:
        """Set whether the table's rows are there."""
        if complete:
            self._complete.add(table)
            self._begin_with(table)
        else:
            self._complete.discard(table)

    def all_are_complete(self) -> None:
        """The rows of all tables are there, and will not be removed again."""
        self._all_complete = True
        for table in list(self._rowless):
            self._begin_with(table)

    def _begin_with(self, table: TableId | None) -> None:
        for task in self._rowless.pop(table, ()):
            self._queue(task)

    def _queue(self, task: Task) -> None:
        size = self._sizes.get(task.table, 0) if task.table else 0
        heappush(self._ready, (-size, next(self._number), task))

    def take(self) -> Task | None:
        """Begin the next task and return it. Returns None when no task may begin now."""
        while self._ready and not self._closed:
            task = heappop(self._ready)[2]
            if not self._all_complete and task.table not in self._complete:  # emptied meanwhile
                self._rowless.setdefault(task.table, []).append(task)
                continue
            del self._needs[task.key]
            self._running[task.key] = task
            return task
        return None

    def finished(self, task: Task) -> None:
        del self._running[task.key]
        for other in self._after.get(task.key, ()):
            needs = self._needs.get(other.key)
            if needs is not None:
                needs.discard(task.key)
                if not needs:
                    self._queue(other)

    def failed(self, task: Task) -> None:
        """Remove the task and all tasks that depend on it."""
        del self._running[task.key]
        self._give_up(task)

    def _give_up(self, task: Task) -> None:
        for other in self._after.get(task.key, ()):
            if self._needs.pop(other.key, None) is not None:
                self._give_up(other)

    def close(self) -> None:
        """Begin no more tasks."""
        self._closed = True

    @property
    def over(self) -> bool:
        """Whether no task runs and no task will begin."""
        return not self._running and (self._closed or not self._needs)

    @property
    def running(self) -> tuple[Task, ...]:
        return tuple(self._running.values())
