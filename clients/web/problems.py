"""Errors as problem documents (RFC 9457, application/problem+json).

The status of a PgmigError is in the table of its kinds (`services.shared.model.errors`). `Refusal` is what
this server itself refuses, before a coordinator is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from http import HTTPStatus

from starlette.responses import Response

from services.shared.model import ErrorKind, PgmigError

MEDIA_TYPE = "application/problem+json"
URN = "urn:pgmig:problem:"


class Refusal(StrEnum):
    """A request that this server refuses. `REFUSALS` has the HTTP status of each."""

    TOKEN_NEEDED = "TOKEN_NEEDED"  # noqa: S105 - not a token
    FOREIGN_ORIGIN = "FOREIGN_ORIGIN"
    HOOKS_NOT_ALLOWED = "HOOKS_NOT_ALLOWED"
    NO_SUCH_ROUTE = "NO_SUCH_ROUTE"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    TOO_SLOW = "TOO_SLOW"
    TOO_LARGE = "TOO_LARGE"
    NOT_JSON = "NOT_JSON"
    UNKNOWN_HOST = "UNKNOWN_HOST"
    BUSY = "BUSY"
    TIMED_OUT = "TIMED_OUT"


REFUSALS: dict[Refusal, int] = {
    Refusal.TOKEN_NEEDED: 401,
    Refusal.FOREIGN_ORIGIN: 403,
    Refusal.HOOKS_NOT_ALLOWED: 403,
    Refusal.NO_SUCH_ROUTE: 404,
    Refusal.METHOD_NOT_ALLOWED: 405,
    Refusal.TOO_SLOW: 408,
    Refusal.TOO_LARGE: 413,
    Refusal.NOT_JSON: 415,
    Refusal.UNKNOWN_HOST: 421,
    Refusal.BUSY: 503,
    Refusal.TIMED_OUT: 504,
}


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
        body = problem(self.refusal.value, REFUSALS[self.refusal], self.detail, self.hint)
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
            "enum": sorted({*ErrorKind, *Refusal}),
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
