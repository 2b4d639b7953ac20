"""A pool of sessions on the destination that run the tasks of a schedule.

Each worker of the pool opens its session for its first task and keeps it. After an error that a retry may
correct, no more tasks begin, so that the retry can start soon. After any other error, tasks that do not
depend on the failed one continue, so that hours of their work are not lost. Errors are raised when no task
runs any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Generic, TypeVar

from services.coordinator.post_data.schedule import Schedule, Task
from services.shared.model import PgmigError
from services.shared.pg.schema.post_data import Item
from services.shared.runtime.changes import Changes

S = TypeVar("S")


class TaskPool(Generic[S]):
    """session: opens a session. run: executes one transaction in it. on_change: called when a task begins or
    ends."""

    def __init__(
        self,
        schedule: Schedule,
        session: Callable[[], AbstractAsyncContextManager[S]],
        run: Callable[[S, tuple[Item, ...]], Awaitable[None]],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._schedule = schedule
        self._session = session
        self._run = run
        self._on_change = on_change
        self._changes = Changes()
        self._errors: list[PgmigError] = []

    def wake(self) -> None:
        """Call this after a change of the schedule: idle workers look for tasks again."""
        self._changes.announce()

    async def work_off(self, workers: int) -> None:
        """Return when the schedule is over. Raises an ExceptionGroup of the errors of failed tasks."""
        async with asyncio.TaskGroup() as group:
            for number in range(max(1, workers)):
                group.create_task(self._work(), name=f"indexes-{number}")
        if self._errors:
            raise ExceptionGroup("the post-data section", self._errors)

    async def _work(self) -> None:
        async with AsyncExitStack() as stack:
            session: S | None = None
            while not self._schedule.over:
                task = self._schedule.take()
                if task is None:
                    await self._changes.wait()
                    continue
                self._on_change()
                try:
                    if session is None:
                        session = await stack.enter_async_context(self._session())
                    for items in task.transactions:
                        await self._run(session, items)
                except PgmigError as exc:
                    self._failed(task, exc)
                    session = None
                    await stack.aclose()
                else:
                    self._schedule.finished(task)
                self._on_change()
                self.wake()

    def _failed(self, task: Task, error: PgmigError) -> None:
        self._errors.append(error)
        self._schedule.failed(task)
        if error.policy.retry:
            self._schedule.close()
