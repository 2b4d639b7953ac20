"""Assignments and commands (`model.work`) to protobuf and back; total in both directions.

Decoding raises PgmigError(INVALID_ARGUMENT) for a message that says nothing this version
understands: an empty `oneof`, or a role that is none.
"""

from __future__ import annotations

from pgmig.common.v1.common_pb2 import TableName
from pgmig.worker.v1 import worker_pb2 as pb

from services.shared.model import (
    ApplierWork,
    Assign,
    Assignment,
    AssignmentRef,
    CloseSnapshot,
    CopierWork,
    DecoderWork,
    ErrorKind,
    Lsn,
    OpenSnapshot,
    PgmigError,
    Register,
    Role,
    Route,
    TableId,
    Unassign,
    Work,
    WorkerCommand,
)


def not_understood(what: str) -> PgmigError:
    return PgmigError(
        ErrorKind.INVALID_ARGUMENT,
        f"{what} is not one that this version understands",
        "use the same version of pgmig everywhere",
    )


def table_to_pb(table: TableId) -> TableName:
    return TableName(schema=table.schema, name=table.name)


def table_from_pb(message: TableName) -> TableId:
    return TableId(message.schema, message.name)


def _decoder_to_pb(work: DecoderWork) -> pb.DecoderWork:
    return pb.DecoderWork(
        source_uri=work.source_uri,
        follow=work.follow,
        may_create=work.may_create,
        tables=[table_to_pb(table) for table in work.tables],
        system_identifier=work.system_identifier,
        timeline=work.timeline,
        start_lsn=work.start_lsn.value,
        flushed_lsn=work.flushed_lsn.value,
        inserts_only=[table_to_pb(table) for table in work.inserts_only],
        sends_generated=work.sends_generated,
    )


def _decoder_from_pb(message: pb.DecoderWork) -> DecoderWork:
    return DecoderWork(
        message.source_uri,
        message.follow,
        message.may_create,
        tuple(table_from_pb(table) for table in message.tables),
        message.system_identifier,
        message.timeline,
        Lsn(message.start_lsn),
        Lsn(message.flushed_lsn),
        tuple(table_from_pb(table) for table in message.inserts_only),
        message.sends_generated,
    )


def _applier_to_pb(work: ApplierWork) -> pb.ApplierWork:
    return pb.ApplierWork(
        destination_uri=work.destination_uri,
        start_lsn=work.start_lsn.value,
        floors=[pb.TableFloor(table=table_to_pb(table), lsn=lsn.value) for table, lsn in work.floors],
        skip=[lsn.value for lsn in work.skip],
        strict=work.strict,
        routes=[
            pb.TableRoute(leaf=table_to_pb(route.leaf), root=table_to_pb(route.root)) for route in work.routes
        ],
        sends_generated=work.sends_generated,
        epoch=work.epoch,
    )


def _applier_from_pb(message: pb.ApplierWork) -> ApplierWork:
    return ApplierWork(
        message.destination_uri,
        Lsn(message.start_lsn),
        tuple((table_from_pb(floor.table), Lsn(floor.lsn)) for floor in message.floors),
        tuple(Lsn(lsn) for lsn in message.skip),
        message.strict,
        tuple(Route(table_from_pb(route.leaf), table_from_pb(route.root)) for route in message.routes),
        message.sends_generated,
        message.epoch,
    )


def assignment_to_pb(assignment: Assignment) -> pb.Assign:
    message = pb.Assign(assignment_id=assignment.assignment_id, migration_id=assignment.migration_id)
    match assignment.work:
        case DecoderWork() as work:
            message.decoder.CopyFrom(_decoder_to_pb(work))
        case CopierWork() as work:
            message.copier.CopyFrom(
                pb.CopierWork(
                    source_uri=work.source_uri,
                    destination_uri=work.destination_uri,
                    workers=work.workers,
                    max_rate=work.max_rate,
                )
            )
        case ApplierWork() as work:
            message.applier.CopyFrom(_applier_to_pb(work))
    return message


def _work_from_pb(message: pb.Assign) -> Work:
    match message.WhichOneof("work"):
        case "decoder":
            return _decoder_from_pb(message.decoder)
        case "copier":
            copier = message.copier
            return CopierWork(copier.source_uri, copier.destination_uri, copier.workers, copier.max_rate)
        case "applier":
            return _applier_from_pb(message.applier)
        case _:
            raise not_understood(f"the work of assignment {message.assignment_id!r}")


def assignment_from_pb(message: pb.Assign) -> Assignment:
    return Assignment(message.assignment_id, message.migration_id, _work_from_pb(message))


def command_to_pb(command: WorkerCommand) -> pb.AttachResponse:
    match command:
        case Assign(assignment):
            return pb.AttachResponse(assign=assignment_to_pb(assignment))
        case Unassign(key):
            return pb.AttachResponse(unassign=pb.Unassign(assignment_id=key))
        case OpenSnapshot(key):
            return pb.AttachResponse(open_snapshot=pb.OpenSnapshot(assignment_id=key))
        case CloseSnapshot(key):
            return pb.AttachResponse(close_snapshot=pb.CloseSnapshot(assignment_id=key))


def command_from_pb(message: pb.AttachResponse) -> WorkerCommand:
    match message.WhichOneof("command"):
        case "assign":
            return Assign(assignment_from_pb(message.assign))
        case "unassign":
            return Unassign(message.unassign.assignment_id)
        case "open_snapshot":
            return OpenSnapshot(message.open_snapshot.assignment_id)
        case "close_snapshot":
            return CloseSnapshot(message.close_snapshot.assignment_id)
        case _:
            raise not_understood("a command from the coordinator")


def register_to_pb(value: Register) -> pb.Register:
    return pb.Register(
        worker_id=value.worker_id,
        role=value.role.value,
        host=value.host,
        running=[
            pb.Running(assignment_id=ref.assignment_id, migration_id=ref.migration_id)
            for ref in value.running
        ],
    )


def register_from_pb(message: pb.Register) -> Register:
    if message.role not in [role.value for role in Role]:
        raise not_understood(f"the worker role {message.role!r}")
    if not message.worker_id:
        raise PgmigError(ErrorKind.INVALID_ARGUMENT, "a worker registered without an id")
    role = Role(message.role)
    running = tuple(AssignmentRef(one.assignment_id, one.migration_id, role) for one in message.running)
    return Register(message.worker_id, role, message.host, running)
