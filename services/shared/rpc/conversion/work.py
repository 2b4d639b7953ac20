"""Assignments and commands (`model.work`) to protobuf and back: see `conversion.mapping`.

Decoding raises PgmigError(INVALID_ARGUMENT) for a message that this version does not understand: an
empty `oneof`, or an unknown role.
"""

from __future__ import annotations

from typing import cast, get_args

from pgmig.worker.v1 import worker_pb2 as pb

from services.shared.model import (
    Assign,
    Assignment,
    AssignmentRef,
    ErrorKind,
    PgmigError,
    PipelineId,
    Register,
    Role,
    WorkerCommand,
)
from services.shared.rpc.conversion.mapping import Choice, Correspondence, EnumCorrespondence

_COMMANDS = Choice(
    tuple(kind for kind in get_args(WorkerCommand) if kind is not Assign),
    pb.AttachResponse,
    "command",
    ErrorKind.INVALID_ARGUMENT,
)
_PIPELINE = Correspondence(PipelineId, pb.PipelineId, ErrorKind.INVALID_ARGUMENT)
_ASSIGNMENT = Correspondence(Assignment, pb.Assign, ErrorKind.INVALID_ARGUMENT)
_ROLE = EnumCorrespondence(Role, pb.Register.DESCRIPTOR.fields_by_name["role"], ErrorKind.INVALID_ARGUMENT)


def command_to_pb(command: WorkerCommand) -> pb.AttachResponse:
    if isinstance(command, Assign):
        return pb.AttachResponse(assign=_ASSIGNMENT.to_pb(command.assignment))
    return pb.AttachResponse(**_COMMANDS.to_pb(command))


def command_from_pb(message: pb.AttachResponse) -> WorkerCommand:
    if message.WhichOneof("command") == "assign":
        return Assign(_ASSIGNMENT.from_pb(message.assign))
    return cast("WorkerCommand", _COMMANDS.from_pb(message))


def register_to_pb(value: Register) -> pb.Register:
    """Without the nonce, which the handshake adds."""
    return pb.Register(
        worker_id=value.worker_id,
        role=_ROLE.to_pb(value.role),
        host=value.host,
        running=[
            pb.Running(assignment_id=ref.assignment_id, pipeline=_PIPELINE.to_pb(ref.pipeline))
            for ref in value.running
        ],
    )


def register_from_pb(message: pb.Register) -> Register:
    """All running assignments get the worker's role."""
    role = _ROLE.from_pb(message.role)
    if not message.worker_id:
        raise PgmigError(ErrorKind.INVALID_ARGUMENT, "a worker registered without an id")
    running = tuple(
        AssignmentRef(one.assignment_id, _PIPELINE.from_pb(one.pipeline), role) for one in message.running
    )
    return Register(message.worker_id, role, message.host, running)
