"""The snapshot that the decoder holds open on the source, under which tables are copied."""

from __future__ import annotations

from functools import partial

from services.coordinator.workers.registry import WorkerRegistry
from services.shared.model import CloseSnapshot, OpenSnapshot, PipelineId, Role, SnapshotReady
from services.shared.runtime.changes import Changes


class Snapshot:
    """Of one pipeline. current: None while there is none. It ends with the session that exported it."""

    def __init__(self, pipeline: PipelineId, worker_registry: WorkerRegistry, changes: Changes) -> None:
        self._pipeline = pipeline
        self._worker_registry = worker_registry
        self._changes = changes
        self._attachments = 0
        self.current: SnapshotReady | None = None

    def ready(self, report: SnapshotReady) -> None:
        self.current = report

    def lost(self) -> None:
        self.current = None

    def attached(self) -> None:
        """A worker has received an assignment, so waiting callers of `open` request the snapshot again."""
        self._attachments += 1

    async def open(self) -> SnapshotReady:
        """The decoder's exported snapshot: the one it holds, or a new one."""
        while self.current is None:
            decoder = self._worker_registry.current(self._pipeline, Role.DECODER)
            if decoder is not None:
                self._worker_registry.tell(OpenSnapshot(decoder.assignment_id), decoder.assignment_id)
            # Asked again after every attachment: a command may have been lost with its stream.
            await self._changes.until(partial(self._answered, self._attachments))
        return self.current

    def _answered(self, attachments: int) -> bool:
        return self.current is not None or self._attachments != attachments

    def close(self) -> None:
        """Release the snapshot, so that the source can vacuum again."""
        decoder, self.current = self._worker_registry.current(self._pipeline, Role.DECODER), None
        if decoder is not None:
            self._worker_registry.tell(CloseSnapshot(decoder.assignment_id), decoder.assignment_id)
