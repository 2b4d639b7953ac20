"""Builds the post-data section: its progress, and the task that begins during the copy.

Work that needs only one table begins as soon as that table's rows are complete. It runs in a separate task,
which continues when phase copy ends and phase indexes begins. A failure in this task does not disturb the
copy. An error that a retry may correct is retried. Any other error is logged as a warning and ends the task.
Phase indexes starts the task again, and fails if an error remains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.pipeline.dump_tools import schema_tools
from services.coordinator.pipeline.files import Files
from services.coordinator.pipeline.parts import Context, Schema
from services.coordinator.pipeline.reports import Reports
from services.coordinator.post_data.schedule import Schedule, Task, table_tasks
from services.coordinator.post_data.task_pool import TaskPool
from services.shared.model import (
    EventLevel,
    IndexProgress,
    PgmigError,
    TableId,
    back_off_s,
)
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping, steps_done
from services.shared.pg.catalog.selected import choose
from services.shared.pg.schema.archive.entries import Section
from services.shared.pg.schema.archive.restore_sql import Script
from services.shared.pg.schema.dump import dump_schema, section_script
from services.shared.pg.schema.post_data import (
    BuildingSession,
    Item,
    Plan,
    TableItems,
    analysis,
    building_session,
    plan,
    relations,
)
from services.shared.pg.session.connection import connection
from services.shared.runtime.assignments import cause

POST_DATA = "post-data"
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0
SMALL = 16 << 20
"""Bytes up to which sessions are better busy with a table each than side by side with one."""


class Building:
    """The plan at work. done: the steps noted on the destination."""

    def __init__(
        self,
        pipeline: PipelineStatus,
        reports: Reports,
        uri: str,
        whole: Plan,
        kinds: dict[TableId, str],
        *,
        done: set[str],
    ) -> None:
        self.plan = whole
        self.kinds = kinds
        self.done = done
        self._pipeline = pipeline
        self._reports = reports
        self._uri = uri
        self._total = whole.total
        self._finished = 0
        self._schedule = Schedule(())

    async def table_work(self) -> None:
        """Build what needs one table alone, as the tables become complete, until all are."""
        copying = self._pipeline.copying
        with_items = {items.table: items for items in self.plan.tables}
        # Partitions that the destination lacks may still be listed in place of their root.
        copied = {record.table for record in copying.records() if record.table in self.kinds}
        small = {record.table for record in copying.records() if record.bytes_estimated <= SMALL}
        tasks = [
            task
            for table in sorted(copied | with_items.keys())
            for task in table_tasks(
                with_items.get(table, TableItems(table)),
                analysis(table, self.kinds.get(table, "r")),
                at_once=table in small,
            )
        ]
        await self.work_off(tasks)

    async def work_off(self, tasks: Sequence[Task]) -> None:
        """Raises an ExceptionGroup of what failed."""
        pipeline = self._pipeline
        options = pipeline.migration.record.options
        sizes = {record.table: record.bytes_estimated for record in pipeline.copying.records()}
        self._schedule = Schedule(tasks, sizes)
        pool = TaskPool(self._schedule, self.session, self.run, self._tell)
        feeding = asyncio.create_task(self._feed(pool), name="complete-tables")
        try:
            await pool.work_off(options.index_workers)
        finally:
            feeding.cancel()
            await asyncio.wait({feeding})

    async def _feed(self, pool: TaskPool[BuildingSession]) -> None:
        """Report complete tables to the schedule until all are complete."""
        copying, known = self._pipeline.copying, 0
        while not copying.complete:
            for table in copying.turned[known:]:
                self._schedule.table_is(table, complete=table in copying.copied)
            known = len(copying.turned)
            pool.wake()
            await self._reports.until(partial(self._news, known))
        self._schedule.all_are_complete()
        pool.wake()

    async def look_again(self) -> None:
        """Read again what the destination has noted as done. Counting begins again."""
        async with connection(self._uri, "destination") as conn:
            self.done = await steps_done(conn, self._pipeline.id)
        self._finished = 0

    def _news(self, known: int) -> bool:
        copying = self._pipeline.copying
        return copying.complete or len(copying.turned) > known

    def count(self, items: Iterable[Item]) -> None:
        """They were done before this began."""
        self._finished += sum(item.counted for item in items)
        self._tell()

    def session(self) -> AbstractAsyncContextManager[BuildingSession]:
        record = self._pipeline.migration.record
        memory, sessions = record.options.maintenance_work_mem_kb, record.options.index_workers
        return building_session(self._uri, self._pipeline.id, self.plan.settings, memory, sessions)

    async def run(self, session: BuildingSession, items: Sequence[Item], step: str = "") -> None:
        """Do what is not done, in one transaction. step: of all of them; noted instead of their own."""
        left = [item for item in items if not self.done & {item.step, step}]
        if left or (step and step not in self.done):
            await session.run(left, step)
        self.done.update([step] if step else [item.step for item in left])
        self.count(items)

    def _tell(self) -> None:
        labels = tuple(task.label for task in self._schedule.running)
        self._pipeline.indexes = IndexProgress(self._total, self._finished, labels)
        self._pipeline.migration.touch()


async def load(context: Context, files: Files, reports: Reports) -> Building:
    """From the schema's archive, which is made again when it is lost, and the destination."""
    pipeline = context.pipeline
    uris, migration = await context.credentials.both(), context.migration
    async with connection(uris.destination_uri, "destination") as conn:
        await ensure_bookkeeping(conn)
        kinds = await relations(conn)
        done = await steps_done(conn, pipeline.id)
    if migration.record.options.data_only:
        whole = Plan(b"", (), (), (), (), ())  # the destination brought its own
    else:
        version = migration.record.destination.server_version_num
        whole = await asyncio.to_thread(plan, await _script(context, files, kinds), kinds, version)
    return Building(pipeline, reports, uris.destination_uri, whole, kinds, done=done)


async def _script(context: Context, files: Files, there: Collection[TableId]) -> Script:
    uris, migration = await context.credentials.both(), context.migration
    options = migration.record.options
    if not files.archive.exists():
        tools = await schema_tools(context.migration)
        files.archive.parent.mkdir(parents=True, exist_ok=True)
        async with connection(uris.source_uri, "source") as conn:
            chosen = await choose(conn, options)
        rows = not options.schema_only
        await dump_schema(tools, uris.source_uri, None, files.archive, chosen, rows=rows)
    return await section_script(
        files.archive,
        Section.POST_DATA,
        no_owner=options.no_owner,
        no_acl=options.no_acl,
        skip=options.skip_objects,
        there=there,
    )


def begin(context: Context, schema: Schema, reports: Reports) -> asyncio.Task[Building]:
    """Run `table_work` in a separate task; start it again if it failed. The task returns its `Building`."""
    task = schema.index_work.task
    if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
        task = asyncio.create_task(
            _table_work(context, schema.files, reports), name=f"building-{context.migration.id}"
        )
        schema.index_work.task = task
    return task


async def _table_work(context: Context, files: Files, reports: Reports) -> Building:
    failures = 0
    while True:
        try:
            building = await load(context, files, reports)
            await building.table_work()
        except (PgmigError, ExceptionGroup) as exc:
            error = cause(exc)
            if error is None:
                raise
            if not error.policy.retry:
                context.migration.event(EventLevel.WARNING, f"not built yet: {error}")
                raise error from exc
            context.migration.event(EventLevel.WARNING, f"building indexes is retried: {error}")
        else:
            return building
        await asyncio.sleep(back_off_s(FIRST_RETRY_S, LONGEST_RETRY_S, failures))
        failures += 1
