"""Workers' reports (`model.work`) to protobuf and back: see `conversion.mapping`.

Decoding raises PgmigError(INVALID_ARGUMENT) for a report that this version does not know.
"""

from __future__ import annotations

from typing import cast, get_args

from pgmig.worker.v1 import worker_pb2 as pb

from services.shared.model import ErrorKind, Register, WorkerReport
from services.shared.rpc.conversion.mapping import Choice
from services.shared.rpc.conversion.work import register_from_pb, register_to_pb

_REPORTS = Choice(
    tuple(kind for kind in get_args(WorkerReport) if kind is not Register),
    pb.AttachRequest,
    "report",
    ErrorKind.INVALID_ARGUMENT,
)


def report_to_pb(report: WorkerReport, sequence: int = 0) -> pb.AttachRequest:
    """sequence: see AttachRequest in protos/pgmig/worker/v1/worker.proto."""
    if isinstance(report, Register):
        return pb.AttachRequest(register=register_to_pb(report), sequence=sequence)
    return pb.AttachRequest(**_REPORTS.to_pb(report), sequence=sequence)


def report_from_pb(message: pb.AttachRequest) -> WorkerReport:
    if message.WhichOneof("report") == "register":
        return register_from_pb(message.register)
    return cast("WorkerReport", _REPORTS.from_pb(message))
