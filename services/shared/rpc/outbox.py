"""Reports on their way to the coordinator: which are kept, replaced or repeated.

Of a progress report (decoder, applier, copy part, a retried error) only the newest version is worth
sending. It replaces an older one that has not been sent yet. If it is lost with a stream, it is not
repeated. Every other report must arrive: it gets a sequence number, is kept until acknowledged, and is sent
again, in order, on the next stream. So memory is bounded by the number of parts and assignments, not
by time. Reports are encoded when they are put, so that one that cannot be encoded fails where it is
created.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable

from pgmig.worker.v1 import worker_pb2 as pb

from services.shared.model import (
    ApplierProgress,
    AssignmentFailed,
    AssignmentRetrying,
    AssignmentStopped,
    DecoderProgress,
    PartDone,
    PartProgress,
    Register,
    WorkerReport,
)
from services.shared.rpc.conversion.report import report_to_pb


class Outbox:
    def __init__(self) -> None:
        self._last_sequence = 0
        self._pending: OrderedDict[Hashable, pb.AttachRequest] = OrderedDict()
        self._unacknowledged: deque[pb.AttachRequest] = deque()

    def put(self, report: WorkerReport) -> None:
        """Queue a report. Raises TypeError for Register, which only the link sends."""
        if isinstance(report, Register):
            raise TypeError("Register is the link's own report")
        key = _progress_key(report)
        if key is not None:
            # Removed first, so that it moves to the end: it is newer than all reports before it.
            self._pending.pop(key, None)
            self._pending[key] = report_to_pb(report)
            return
        self._drop_outdated(report)
        self._last_sequence += 1
        self._pending[self._last_sequence] = report_to_pb(report, self._last_sequence)

    def take(self) -> pb.AttachRequest | None:
        """The next report to send; None if there is none."""
        if not self._pending:
            return None
        _key, message = self._pending.popitem(last=False)
        if message.sequence:
            self._unacknowledged.append(message)
        return message

    def acknowledge(self, sequence: int) -> None:
        """Everything up to `sequence` has arrived."""
        while self._unacknowledged and self._unacknowledged[0].sequence <= sequence:
            self._unacknowledged.popleft()

    def rewind(self) -> None:
        """A new stream has begun. Unacknowledged reports are sent first, in their old order."""
        for message in reversed(self._unacknowledged):
            self._pending[message.sequence] = message
            self._pending.move_to_end(message.sequence, last=False)
        self._unacknowledged.clear()

    @property
    def settled(self) -> bool:
        """Whether every report that must arrive has arrived."""
        return not self._unacknowledged and not any(message.sequence for message in self._pending.values())

    def _drop_outdated(self, report: WorkerReport) -> None:
        """Discard unsent progress of what has ended according to `report`."""
        match report:
            case PartDone(assignment, part) | AssignmentFailed(assignment_id=assignment, part_id=part) if (
                part
            ):
                ended = [key for key in self._pending if key == ("part", assignment, part)]
            case AssignmentFailed(assignment_id=assignment) | AssignmentStopped(assignment):
                ended = [key for key in self._pending if isinstance(key, tuple) and key[1] == assignment]
            case _:
                return
        for key in ended:
            del self._pending[key]


def _progress_key(report: WorkerReport) -> tuple[str, str, str] | None:
    """Reports with the same key replace each other; None for a report that must arrive."""
    match report:
        case DecoderProgress(assignment):
            return ("decoder", assignment, "")
        case ApplierProgress(assignment):
            return ("applier", assignment, "")
        case PartProgress(assignment, part):
            return ("part", assignment, part)
        case AssignmentRetrying(assignment, kind):
            return ("retrying", assignment, kind)
        case _:
            return None
