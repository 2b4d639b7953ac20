"""Errors to gRPC statuses and back."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc import aio
from grpc_status import rpc_status  # type: ignore[import-untyped]

from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.rpc.status import error_from_rpc, status_of

ADDRESS = "127.0.0.1:7432"


def over_the_wire(exc: Exception) -> PgmigError:
    """What a client raises when a handler raised `exc`."""
    status = rpc_status.to_status(status_of(exc, "GetMigration"))
    metadata = aio.Metadata(*status.trailing_metadata)
    return error_from_rpc(
        aio.AioRpcError(status.code, aio.Metadata(), metadata, status.details), "asking for m1", ADDRESS
    )


def plain(code: grpc.StatusCode, details: str = "") -> PgmigError:
    """What a client raises for a status without details of ours."""
    exc = aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details)
    return error_from_rpc(exc, "asking for m1", ADDRESS)


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_every_kind_round_trips_with_its_grpc_code(kind: ErrorKind) -> None:
    error = PgmigError(kind, "what happened", "what next", Lsn(0x16B374D848))
    arrived = over_the_wire(error)
    assert (arrived.kind, arrived.message, arrived.hint, arrived.lsn) == (
        kind,
        "what happened",
        "what next",
        Lsn(0x16B374D848),
    )
    assert status_of(error, "x").code == grpc.StatusCode[kind_status(kind)].value[0]


def kind_status(kind: ErrorKind) -> str:
    return PgmigError(kind, "").policy.status


def test_the_detail_is_a_standard_error_info() -> None:
    info = error_details_pb2.ErrorInfo()
    status = status_of(PgmigError(ErrorKind.GAP, "m", "h", Lsn(1)), "x")
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == ("GAP", "pgmig", {"hint": "h", "lsn": "0/1"})


def test_an_unexpected_exception_is_sent_as_its_type_alone() -> None:
    arrived = over_the_wire(RuntimeError("postgresql://u:hunter2@h/d"))
    assert arrived.kind is ErrorKind.INTERNAL
    assert "RuntimeError" in arrived.message
    assert "hunter2" not in arrived.message + arrived.hint


def test_texts_are_cut_to_what_trailers_hold() -> None:
    status = status_of(PgmigError(ErrorKind.SCHEMA_FAILED, "m" * 10_000, "h" * 10_000), "x")
    assert len(status.SerializeToString()) < 4096
    assert status.message.endswith("…")


def test_a_kind_of_a_newer_coordinator_is_internal_and_keeps_its_message() -> None:
    status = status_of(PgmigError(ErrorKind.GAP, "from the future"), "x")
    info = error_details_pb2.ErrorInfo(reason="TIME_TRAVEL", domain="pgmig", metadata={"lsn": "nonsense"})
    status.details[0].Pack(info)
    rich = rpc_status.to_status(status)
    exc = aio.AioRpcError(rich.code, aio.Metadata(), aio.Metadata(*rich.trailing_metadata), rich.details)
    arrived = error_from_rpc(exc, "x", ADDRESS)
    assert (arrived.kind, arrived.message, arrived.lsn) == (ErrorKind.INTERNAL, "from the future", None)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, ErrorKind.UNREACHABLE),
        (grpc.StatusCode.CANCELLED, ErrorKind.UNREACHABLE),
        (grpc.StatusCode.DEADLINE_EXCEEDED, ErrorKind.TIMEOUT),
        (grpc.StatusCode.UNAUTHENTICATED, ErrorKind.AUTHENTICATION),
        (grpc.StatusCode.UNIMPLEMENTED, ErrorKind.INTERNAL),
        (grpc.StatusCode.UNKNOWN, ErrorKind.INTERNAL),
    ],
)
def test_a_status_without_details_is_explained_by_its_code(code: grpc.StatusCode, kind: ErrorKind) -> None:
    arrived = plain(code, "some\n details")
    assert arrived.kind is kind
    assert "\n" not in arrived.message


def test_an_unreachable_coordinator_is_named_with_the_reason() -> None:
    arrived = plain(grpc.StatusCode.UNAVAILABLE, "Connection refused")
    assert arrived.message == f"cannot reach the coordinator at {ADDRESS}: Connection refused"


def test_details_that_contradict_the_status_are_ignored() -> None:
    rich = rpc_status.to_status(status_of(PgmigError(ErrorKind.GAP, "m"), "x"))
    metadata = aio.Metadata(*rich.trailing_metadata)
    exc = aio.AioRpcError(grpc.StatusCode.NOT_FOUND, aio.Metadata(), metadata, "other")
    assert error_from_rpc(exc, "x", ADDRESS).kind is ErrorKind.NOT_FOUND
