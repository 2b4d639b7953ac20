"""Errors as problem documents (RFC 9457, application/problem+json).

The status of a PgmigError is in the table of its kinds (`services.shared.model.errors`). `Refusal` is what
this server itself refuses, before a coordinator is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import Enum
from http import HTTPStatus

from starlette.responses import Response

from services.shared.model import ErrorKind, PgmigError

MEDIA_TYPE = "application/problem+json"
URN = "urn:pgmig:problem:"


class Refusal(Enum):
    """A request that this server refuses. The value is the HTTP status."""

    TOKEN_NEEDED = 401
    FOREIGN_ORIGIN = 403
    NO_SUCH_ROUTE = 404
    METHOD_NOT_ALLOWED = 405
    TOO_SLOW = 408
    TOO_LARGE = 413
    NOT_JSON = 415
    UNKNOWN_HOST = 421
    BUSY = 503
    TIMED_OUT = 504


class RefusedError(Exception):
    """detail: what is wrong. hint: what to do."""

    def __init__(self, refusal: Refusal, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.refusal = refusal
        self.detail = detail
        self.hint = hint

    @property
    def response(self) -> Response:
        headers = {"WWW-Authenticate": 'Bearer realm="pgmig"'} if self.refusal is Refusal.TOKEN_NEEDED else {}
        body = problem(self.refusal.name, self.refusal.value, self.detail, self.hint)
        return problem_response(body, headers)


def problem(kind: str, status: int, detail: str, hint: str = "") -> dict[str, object]:
    """kind: as in `PgmigError` or `Refusal`, stable across releases."""
    return {
        "type": URN + kind.lower().replace("_", "-"),
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "kind": kind,
        "hint": hint,
    }


def problem_of(exc: PgmigError) -> dict[str, object]:
    """lsn: as text. xid: the source transaction whose commit record is at `lsn`. Both only if the error has
    them."""
    body = problem(exc.kind.value, exc.policy.http, exc.message, exc.hint)
    if exc.lsn:
        body["lsn"] = str(exc.lsn)
    if exc.xid:
        body["xid"] = exc.xid
    return body


def invalid(fields: Iterable[Mapping[str, str]]) -> dict[str, object]:
    """Of a request with invalid fields. Each has `in` (body, query or path), `field` and `detail`, and never
    the value that was sent."""
    errors = list(fields)
    detail = "; ".join(f"{one['in']} {one['field']}: {one['detail']}".replace(" :", ":") for one in errors)
    body = problem_of(
        PgmigError(
            ErrorKind.INVALID_ARGUMENT, f"the request is not valid: {detail}", "see /api/v1/openapi.json"
        )
    )
    return {**body, "errors": errors}


def problem_response(body: dict[str, object], headers: Mapping[str, str] | None = None) -> Response:
    status = body["status"]
    assert isinstance(status, int)
    return Response(json.dumps(body), status, dict(headers or {}), MEDIA_TYPE)


PROBLEM_SCHEMA: dict[str, object] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "kind", "hint"],
    "properties": {
        "type": {"type": "string", "description": f"{URN} and the kind"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What happened, and where."},
        "kind": {
            "type": "string",
            "enum": [
                *(kind.value for kind in ErrorKind),
                *(one.name for one in Refusal if one.name not in ErrorKind.__members__),
            ],
        },
        "hint": {"type": "string", "description": "What the operator can do. May be empty."},
        "lsn": {"type": "string", "description": "The position of the error in the WAL."},
        "xid": {"type": "integer", "description": "The transaction whose commit record is at `lsn`."},
        "errors": {
            "type": "array",
            "description": "The invalid fields of a request.",
            "items": {
                "type": "object",
                "required": ["in", "field", "detail"],
                "properties": {
                    "in": {"enum": ["body", "query", "path"]},
                    "field": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
