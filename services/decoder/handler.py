"""Starting and stopping the decoder's assignments, and snapshots for the copiers of a migration."""

from __future__ import annotations

from collections.abc import Callable

from services.decoder.assignment import Decoding
from services.shared.bus.connection import Client
from services.shared.model import (
    Assignment,
    CloseSnapshot,
    OpenSnapshot,
    WorkerReport,
)
from services.shared.runtime.assignments import AssignmentRunner


class DecoderHandler:
    """Runs any number of decoder assignments in this process."""

    def __init__(self, client: Client, report: Callable[[WorkerReport], None], max_stream_bytes: int) -> None:
        self._client = client
        self._report = report
        self._max_stream_bytes = max_stream_bytes
        self._decodings: dict[str, Decoding] = {}
        self.runner = AssignmentRunner(self._run, report, self._on_snapshot)

    async def _run(self, assignment: Assignment) -> None:
        decoding = Decoding(assignment, self._client, self._report, self._max_stream_bytes)
        self._decodings[assignment.assignment_id] = decoding
        try:
            await decoding.run()
        finally:
            del self._decodings[assignment.assignment_id]

    async def _on_snapshot(self, command: OpenSnapshot | CloseSnapshot) -> None:
        decoding = self._decodings.get(command.assignment_id)
        if decoding is not None:
            await decoding.on_snapshot(command)
