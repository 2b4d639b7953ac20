"""PgmigError to gRPC status and back: code, message, and google.rpc.ErrorInfo.

The code comes from the error's policy. ErrorInfo contains the rest: `reason` is the kind,
`domain` is "pgmig", `metadata` contains `hint` and `lsn` if the error has them. Any other exception
becomes INTERNAL with only the name of its type, since its text might contain a secret
or a row. The server logs it in full.
"""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import aio
from grpc_status import rpc_status  # type: ignore[import-untyped]

from services.shared.model import ErrorKind, Lsn, PgmigError, UnansweredError

log = logging.getLogger(__name__)

DOMAIN = "pgmig"

# A status is sent in HTTP/2 trailers, twice (grpc-message and grpc-status-details-bin), and
# peers refuse headers beyond 8 to 16 KiB.
_LONGEST_MESSAGE = 1500
_LONGEST_HINT = 2500  # DDL for several tables

# For answers without ErrorInfo: from gRPC itself, a proxy, or another server than pgmig's.
_KINDS = {
    grpc.StatusCode.CANCELLED: ErrorKind.UNREACHABLE,
    grpc.StatusCode.INVALID_ARGUMENT: ErrorKind.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND: ErrorKind.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: ErrorKind.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED: ErrorKind.PERMISSION,
    grpc.StatusCode.UNAUTHENTICATED: ErrorKind.AUTHENTICATION,
    grpc.StatusCode.DEADLINE_EXCEEDED: ErrorKind.TIMEOUT,
    grpc.StatusCode.UNAVAILABLE: ErrorKind.UNREACHABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorKind.UNREACHABLE,  # the server is overloaded
}


def _shorten(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def status_of(exc: Exception, doing: str) -> status_pb2.Status:
    """The google.rpc.Status that reports `exc` to a client. doing: names the call."""
    if not isinstance(exc, PgmigError):
        exc = PgmigError(
            ErrorKind.INTERNAL,
            f"unexpected {type(exc).__name__} in the coordinator during {doing}",
            "see the coordinator's log",
        )
    metadata = {}
    if exc.hint:
        metadata["hint"] = _shorten(exc.hint, _LONGEST_HINT)
    if exc.lsn:
        metadata["lsn"] = str(exc.lsn)
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=exc.kind.value, domain=DOMAIN, metadata=metadata))
    code: grpc.StatusCode = grpc.StatusCode[exc.policy.status]
    return status_pb2.Status(
        code=code.value[0], message=_shorten(exc.message, _LONGEST_MESSAGE), details=[detail]
    )


async def abort_with(context: aio.ServicerContext[Any, Any], exc: Exception, doing: str) -> NoReturn:
    """End the call with the status of `exc`. An unexpected exception is logged in full."""
    if not isinstance(exc, PgmigError):
        log.error("unexpected %s during %s", type(exc).__name__, doing, exc_info=exc)
    status = rpc_status.to_status(status_of(exc, doing))
    await context.abort(status.code, status.details, status.trailing_metadata)


def error_from_rpc(exc: aio.AioRpcError, doing: str, address: str) -> PgmigError:
    """The server's PgmigError, or gRPC's own failure as a PgmigError.

    doing: the request, for the message: "pausing m1". address: the coordinator's.
    """
    info = _error_info(exc)
    if info is not None:
        return _from_info(info, exc.details() or "")
    kind = _KINDS.get(exc.code(), ErrorKind.INTERNAL)
    reason = " ".join((exc.details() or exc.code().name).split())
    if kind is ErrorKind.UNREACHABLE:
        return UnansweredError(
            kind,
            f"cannot reach the coordinator at {address}: {reason}",
            "check the address, and that the coordinator runs",
        )
    if kind is ErrorKind.TIMEOUT:
        return UnansweredError(
            kind,
            f"{doing}: no answer in time from the coordinator at {address}",
            "it may still be running: check the migration's status",
        )
    if exc.code() is grpc.StatusCode.UNIMPLEMENTED:
        return PgmigError(
            kind,
            f"{doing}: the server at {address} does not know this call",
            "check that the address is a pgmig coordinator's, and that both are of one version",
        )
    return PgmigError(kind, f"{doing}: {reason}")


def _error_info(exc: aio.AioRpcError) -> error_details_pb2.ErrorInfo | None:
    try:
        status = rpc_status.from_call(exc)
    except ValueError:  # a broken proxy sent details that contradict the status
        return None
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == DOMAIN:
            return info
    return None


def _from_info(info: error_details_pb2.ErrorInfo, message: str) -> PgmigError:
    try:
        lsn = Lsn.parse(info.metadata["lsn"]) if "lsn" in info.metadata else None
    except ValueError:
        lsn = None
    return PgmigError(ErrorKind.named(info.reason), message, info.metadata.get("hint", ""), lsn)
