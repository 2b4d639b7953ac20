"""One assignment of the copier: loops that receive parts from the queue and copy them.

Theory of operation. Each loop holds one lease at a time and renews it while it copies. It retries
errors that a retry may cure. A part is reported as done after its transaction has committed and before
it is removed from the queue. So if an acknowledgement is lost, the part is delivered again, the
ledger shows that it is done, and it is reported once more.

If a part cannot be copied, only this part fails: it is reported and returned to the queue for later, since
the operator may remove the cause. If its snapshot is gone, it is removed from the queue, because only a new
part under a new snapshot can replace it. If its plan is no longer valid, it is removed without a report,
because another part has already replaced it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from services.copier.progress import Throttle
from services.copier.rate import RateLimit
from services.shared.bus.connection import Client
from services.shared.bus.queue import ACK_WAIT_S, Lease, PartQueue
from services.shared.model import (
    Assignment,
    CopierWork,
    CopyPart,
    ErrorKind,
    PartDone,
    PartProgress,
    PgmigError,
    PipelineId,
    WorkerReport,
)
from services.shared.pg.copy.part import Copied, PartCopier
from services.shared.runtime.assignments import failed, retried
from services.shared.runtime.retry import retrying
from services.shared.runtime.telemetry import SpanName, span

log = logging.getLogger(__name__)

POLL_S = 5.0
"""How long one request for a part waits. If no part arrives, connections are closed."""
QUEUE_LONGEST_WAIT_S = 2.0
BUSY_RETRY_S = 15.0
"""Another session copies the part, because its lease expired or its end was not yet noticed."""
FAILED_RETRY_S = 30.0
NEVER_AGAIN = frozenset({ErrorKind.SNAPSHOT_LOST, ErrorKind.TABLE_CHANGED, ErrorKind.FENCED})
"""Kinds that a retry may cure, but not a retry of the same part."""

Report = Callable[[WorkerReport], None]


class Copying:
    """The loops of one assignment."""

    def __init__(
        self, assignment: Assignment, client: Client, report: Report, *, ack_wait_s: float = ACK_WAIT_S
    ) -> None:
        assert isinstance(assignment.work, CopierWork)
        self._assignment_id = assignment.assignment_id
        self._work = assignment.work
        self._pipeline = assignment.pipeline
        self._client = client
        self._report = report
        self._ack_wait_s = ack_wait_s
        self._rate = RateLimit(assignment.work.max_rate)

    async def run(self) -> None:
        """Copy parts until cancelled. Raises errors that no retry cures and that are not about one part."""
        async with asyncio.TaskGroup() as loops:
            for number in range(max(1, self._work.workers)):
                loops.create_task(self._loop().run(), name=f"copy-{self._pipeline}-{number}")

    def _loop(self) -> PartLoop:
        return PartLoop(
            self._assignment_id,
            self._pipeline,
            PartQueue(self._client, self._pipeline, ack_wait_s=self._ack_wait_s),
            PartCopier(self._work.source_uri, self._work.destination_uri, self._pipeline),
            self._report,
            rate=self._rate,
        )


class PartLoop:
    """Copies one part after the other."""

    def __init__(
        self,
        assignment_id: str,
        pipeline: PipelineId,
        queue: PartQueue,
        copier: PartCopier,
        report: Report,
        *,
        rate: RateLimit,
    ) -> None:
        self._assignment_id = assignment_id
        self._pipeline = pipeline
        self._queue = queue
        self._copier = copier
        self._report = report
        self._rate = rate

    async def run(self) -> None:
        try:
            while True:
                lease = await retrying(
                    f"taking a part of {self._pipeline.migration}",
                    lambda: self._queue.next(POLL_S),
                    longest_wait_s=QUEUE_LONGEST_WAIT_S,
                )
                if lease is None:
                    await self._copier.close()
                else:
                    await self._work_off(lease)
        finally:
            await self._copier.close()
            await self._queue.close()

    async def _work_off(self, lease: Lease) -> None:
        part = lease.part
        try:
            async with _kept(lease, self._queue.ack_wait_s):
                copied = await self._copy(part)
        except PgmigError as exc:
            log.error("part %s failed: %s", part.part_id, exc)
            if exc.kind is not ErrorKind.FENCED:
                self._report(failed(self._assignment_id, exc, part.part_id))
            with _lease_may_be_lost(lease):
                await (lease.drop() if exc.kind in NEVER_AGAIN else lease.retry(FAILED_RETRY_S))
        except BaseException:
            with _lease_may_be_lost(lease):
                await lease.retry()
            raise
        else:
            await self._finish(lease, copied)

    async def _finish(self, lease: Lease, copied: Copied | None) -> None:
        with _lease_may_be_lost(lease):
            if copied is None:
                log.info("part %s is being copied by another session", lease.part.part_id)
                await lease.retry(BUSY_RETRY_S)
                return
            log.info("part %s: %d rows, %d bytes", lease.part.part_id, copied.rows, copied.bytes)
            self._report(PartDone(self._assignment_id, lease.part.part_id, copied.rows, copied.bytes))
            await lease.done()

    async def _copy(self, part: CopyPart) -> Copied | None:
        """Copy with retries. Raises errors that they do not cure, including the kinds in NEVER_AGAIN."""

        async def attempt() -> Copied | PgmigError | None:
            try:
                with (
                    span(SpanName.COPY_PART, migration=str(self._pipeline.migration), table=str(part.table)),
                    Throttle(report_progress) as progress,
                ):
                    return await self._copier.copy(part, progress, self._rate)
            except PgmigError as exc:
                if exc.kind in NEVER_AGAIN:
                    return exc  # a retry of the same part does not cure it
                raise

        def report_progress(rows: int, size: int) -> None:
            self._report(PartProgress(self._assignment_id, part.part_id, rows, size))

        outcome = await retrying(f"copying part {part.part_id}", attempt, on_failure=self._report_retry)
        if isinstance(outcome, PgmigError):
            raise outcome
        return outcome

    def _report_retry(self, error: PgmigError) -> None:
        self._report(retried(self._assignment_id, error))


@asynccontextmanager
async def _kept(lease: Lease, ack_wait_s: float) -> AsyncIterator[None]:
    """Renew the lease of the part every third of `ack_wait_s`."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(ack_wait_s / 3)
            with _lease_may_be_lost(lease):
                await lease.in_progress()

    keeper = asyncio.create_task(keep(), name=f"lease-{lease.part.part_id}")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.wait({keeper})


@contextmanager
def _lease_may_be_lost(lease: Lease) -> Iterator[None]:
    """Log queue errors only: if the part is delivered again, the ledger shows whether it is done."""
    try:
        yield
    except PgmigError as exc:
        log.warning("the copy queue did not accept the end of part %s: %s", lease.part.part_id, exc)
