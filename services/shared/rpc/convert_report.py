"""Workers' reports (`model.work`) to protobuf and back; total in both directions.

Decoding raises PgmigError(INVALID_ARGUMENT) for a report that this version does not know.
"""

from __future__ import annotations

from collections.abc import Callable

from pgmig.worker.v1 import worker_pb2 as pb

from services.shared.model import (
    ApplierProgress,
    AssignmentFailed,
    AssignmentRetrying,
    AssignmentStopped,
    DecoderProgress,
    ErrorKind,
    Lsn,
    PartDone,
    PartProgress,
    Register,
    SentinelApplied,
    SlotReady,
    SnapshotReady,
    WorkerReport,
)
from services.shared.rpc.convert_view import time_from_pb, time_to_pb
from services.shared.rpc.convert_work import (
    not_understood,
    register_from_pb,
    register_to_pb,
    table_from_pb,
    table_to_pb,
)


def report_to_pb(report: WorkerReport, sequence: int = 0) -> pb.AttachRequest:
    """sequence: see AttachRequest in protos/pgmig/worker/v1/worker.proto."""
    message = _report_to_pb(report)
    message.sequence = sequence
    return message


def report_from_pb(message: pb.AttachRequest) -> WorkerReport:
    decode = _DECODERS.get(message.WhichOneof("report") or "")
    if decode is None:
        raise not_understood("a worker's report")
    return decode(message)


def _report_to_pb(report: WorkerReport) -> pb.AttachRequest:  # noqa: PLR0911 - one a kind
    match report:
        case Register():
            return pb.AttachRequest(register=register_to_pb(report))
        case SlotReady():
            return pb.AttachRequest(slot_ready=_slot_to_pb(report))
        case SnapshotReady(key, name, lsn, xids):
            snapshot = pb.SnapshotReady(assignment_id=key, snapshot_name=name, lsn=lsn.value, xids=xids)
            return pb.AttachRequest(snapshot_ready=snapshot)
        case DecoderProgress():
            return pb.AttachRequest(decoder_progress=_decoder_to_pb(report))
        case PartProgress(key, part, rows, size):
            progress = pb.PartProgress(assignment_id=key, part_id=part, rows=rows, bytes=size)
            return pb.AttachRequest(part_progress=progress)
        case PartDone(key, part, rows, size):
            done = pb.PartDone(assignment_id=key, part_id=part, rows=rows, bytes=size)
            return pb.AttachRequest(part_done=done)
        case ApplierProgress():
            return pb.AttachRequest(applier_progress=_applier_to_pb(report))
        case SentinelApplied():
            sentinel = _sentinel_to_pb(report)
            return pb.AttachRequest(sentinel_applied=sentinel)
        case AssignmentFailed():
            return pb.AttachRequest(failed=_failed_to_pb(report))
        case AssignmentRetrying(key, kind, message, hint):
            retrying = pb.AssignmentRetrying(assignment_id=key, kind=kind, message=message, hint=hint)
            return pb.AttachRequest(retrying=retrying)
        case AssignmentStopped(key):
            return pb.AttachRequest(stopped=pb.AssignmentStopped(assignment_id=key))


def _slot_to_pb(report: SlotReady) -> pb.SlotReady:
    return pb.SlotReady(
        assignment_id=report.assignment_id,
        consistent_lsn=report.consistent_lsn.value,
        system_identifier=report.system_identifier,
        timeline=report.timeline,
    )


def _slot_from_pb(message: pb.SlotReady) -> SlotReady:
    return SlotReady(
        message.assignment_id, Lsn(message.consistent_lsn), message.system_identifier, message.timeline
    )


def _decoder_to_pb(report: DecoderProgress) -> pb.DecoderProgress:
    return pb.DecoderProgress(
        assignment_id=report.assignment_id,
        source_lsn=report.source_lsn.value,
        decoded_lsn=report.decoded_lsn.value,
        confirmed_lsn=report.confirmed_lsn.value,
        waiting_for_space=report.waiting_for_space,
    )


def _decoder_from_pb(message: pb.DecoderProgress) -> DecoderProgress:
    return DecoderProgress(
        message.assignment_id,
        Lsn(message.source_lsn),
        Lsn(message.decoded_lsn),
        Lsn(message.confirmed_lsn),
        message.waiting_for_space,
    )


def _applier_to_pb(report: ApplierProgress) -> pb.ApplierProgress:
    return pb.ApplierProgress(
        assignment_id=report.assignment_id,
        applied_lsn=report.applied_lsn.value,
        flushed_lsn=report.flushed_lsn.value,
        last_commit_at=time_to_pb(report.last_commit_at),
        rows_applied=report.rows_applied,
        transactions_applied=report.transactions_applied,
        bytes_applied=report.bytes_applied,
    )


def _applier_from_pb(message: pb.ApplierProgress) -> ApplierProgress:
    return ApplierProgress(
        message.assignment_id,
        Lsn(message.applied_lsn),
        Lsn(message.flushed_lsn),
        time_from_pb(message.last_commit_at),
        message.rows_applied,
        message.transactions_applied,
        message.bytes_applied,
    )


def _failed_to_pb(report: AssignmentFailed) -> pb.AssignmentFailed:
    return pb.AssignmentFailed(
        assignment_id=report.assignment_id,
        kind=report.kind,
        message=report.message,
        hint=report.hint,
        lsn=report.lsn.value,
        part_id=report.part_id,
        xid=report.xid,
    )


def _failed_from_pb(message: pb.AssignmentFailed) -> AssignmentFailed:
    return AssignmentFailed(
        message.assignment_id,
        ErrorKind.named(message.kind),
        message.message,
        message.hint,
        Lsn(message.lsn),
        message.part_id,
        message.xid,
    )


def _snapshot_from_pb(message: pb.SnapshotReady) -> SnapshotReady:
    return SnapshotReady(message.assignment_id, message.snapshot_name, Lsn(message.lsn), message.xids)


def _part_progress_from_pb(message: pb.PartProgress) -> PartProgress:
    return PartProgress(message.assignment_id, message.part_id, message.rows, message.bytes)


def _part_done_from_pb(message: pb.PartDone) -> PartDone:
    return PartDone(message.assignment_id, message.part_id, message.rows, message.bytes)


def _sentinel_to_pb(report: SentinelApplied) -> pb.SentinelApplied:
    changes = [pb.TableChanges(table=table_to_pb(table), rows=rows) for table, rows in report.changes]
    return pb.SentinelApplied(
        assignment_id=report.assignment_id,
        token=report.token,
        lsn=report.lsn.value,
        since=report.since,
        changes=changes,
    )


def _sentinel_from_pb(message: pb.SentinelApplied) -> SentinelApplied:
    changes = tuple((table_from_pb(one.table), one.rows) for one in message.changes)
    return SentinelApplied(message.assignment_id, message.token, Lsn(message.lsn), message.since, changes)


def _retrying_from_pb(message: pb.AssignmentRetrying) -> AssignmentRetrying:
    return AssignmentRetrying(
        message.assignment_id, ErrorKind.named(message.kind), message.message, message.hint
    )


_DECODERS: dict[str, Callable[[pb.AttachRequest], WorkerReport]] = {
    "register": lambda message: register_from_pb(message.register),
    "slot_ready": lambda message: _slot_from_pb(message.slot_ready),
    "snapshot_ready": lambda message: _snapshot_from_pb(message.snapshot_ready),
    "decoder_progress": lambda message: _decoder_from_pb(message.decoder_progress),
    "part_progress": lambda message: _part_progress_from_pb(message.part_progress),
    "part_done": lambda message: _part_done_from_pb(message.part_done),
    "applier_progress": lambda message: _applier_from_pb(message.applier_progress),
    "sentinel_applied": lambda message: _sentinel_from_pb(message.sentinel_applied),
    "failed": lambda message: _failed_from_pb(message.failed),
    "retrying": lambda message: _retrying_from_pb(message.retrying),
    "stopped": lambda message: AssignmentStopped(message.stopped.assignment_id),
}
