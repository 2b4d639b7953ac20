"""The application: routes, errors, the OpenAPI document, and the guard around them."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from clients.web import commands, reading, sockets
from clients.web.context import Parts, Web, json_response
from clients.web.guard import Guard
from clients.web.problems import (
    MEDIA_TYPE,
    REFUSALS,
    Refusal,
    RefusedError,
    invalid,
    problem_of,
    problem_response,
)
from clients.web.schemas import components, ref
from services.shared.model import ErrorKind, PgmigError

log = logging.getLogger(__name__)

OPENAPI = "/api/v1/openapi.json"
_PAGE = """pgmig's web API. This release has no page for browsers.

    /api/v1/migrations      the migrations
    /api/v1/openapi.json    the description of the API
    pgmig-cli tui           the dashboard, in a terminal
"""

_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""Traces begin with the calls to the coordinator (clients.cli.signals)."""

router = APIRouter()


@router.get("/", include_in_schema=False)
async def page() -> Response:
    return PlainTextResponse(_PAGE)


@router.get("/healthz", include_in_schema=False)
async def healthz() -> Response:
    """The server runs."""
    return json_response({"status": "ok"})


@router.get("/readyz", include_in_schema=False)
async def readyz(web: Parts) -> Response:
    """The coordinator can be reached, or the state directory can be read."""
    await web.migrations.check()
    return json_response({"status": "ok"})


def build(web: Web, allowed_hosts: tuple[str, ...]) -> ASGIApp:
    app = FastAPI(
        docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, telemetry=_NO_TELEMETRY
    )
    app.state.web = web
    for one in (router, reading.router, commands.router, sockets.router):
        app.include_router(one)
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    document = openapi(app)
    app.add_route(OPENAPI, lambda _: json_response(document), include_in_schema=False)
    return Guard(app, allowed_hosts, web.limits)


def openapi(app: FastAPI) -> dict[str, Any]:
    """Every error is a problem document."""
    document = get_openapi(title="pgmig", version="1", routes=app.routes, summary=_SUMMARY)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas.update(components())
    problem = {"description": "An error.", "content": {MEDIA_TYPE: {"schema": ref("Problem")}}}
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = problem
    return document


_SUMMARY = "Migrations of PostgreSQL databases. Times are Unix seconds (UTC), 0 for none; LSNs are text."


async def _on_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, PgmigError)
    return problem_response(problem_of(exc))


async def _on_refusal(request: Request | WebSocket, exc: Exception) -> Response | None:
    assert isinstance(exc, RefusedError)
    if isinstance(request, WebSocket):
        await request.send_denial_response(exc.response)
        return None
    return exc.response


async def _on_invalid(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    return problem_response(invalid(map(_field, exc.errors())))


async def _on_invalid_socket(socket: WebSocket, exc: Exception) -> None:
    assert isinstance(exc, WebSocketRequestValidationError)
    await socket.send_denial_response(problem_response(invalid(map(_field, exc.errors()))))


def _field(error: dict[str, Any]) -> dict[str, str]:
    """The value that was sent is left out: it may be a connection string."""
    place, *names = (str(one)[:100] for one in error["loc"])
    detail = (
        "it is not JSON"
        if error["type"] == "json_invalid"
        else str(error["msg"]).removeprefix("Value error, ")
    )
    field = "" if error["type"] == "json_invalid" else ".".join(names)
    return {"in": place, "field": field, "detail": detail}


async def _on_http(request: Request, exc: Exception) -> Response:
    """Of the router: no such path, or not with this method."""
    assert isinstance(exc, HTTPException)
    if exc.status_code == REFUSALS[Refusal.METHOD_NOT_ALLOWED]:
        refused = RefusedError(
            Refusal.METHOD_NOT_ALLOWED, f"{request.method} is not possible here", f"see {OPENAPI}"
        )
        response = refused.response
        response.headers.update(exc.headers or {})
        return response
    if exc.status_code == REFUSALS[Refusal.NO_SUCH_ROUTE]:
        return RefusedError(Refusal.NO_SUCH_ROUTE, "there is nothing at this path", f"see {OPENAPI}").response
    return problem_response(problem_of(PgmigError(ErrorKind.INVALID_ARGUMENT, "the request cannot be read")))


async def _on_defect(request: Request, exc: Exception) -> Response:
    """Starlette raises the exception again afterwards, and the server logs it."""
    return problem_response(
        problem_of(
            PgmigError(
                ErrorKind.INTERNAL,
                f"unexpected {type(exc).__name__} in the web server",
                "this is a defect of pgmig: see the log of `pgmig-cli serve`",
            )
        )
    )


_HANDLERS: dict[type[Exception], Any] = {
    PgmigError: _on_error,
    RefusedError: _on_refusal,
    RequestValidationError: _on_invalid,
    WebSocketRequestValidationError: _on_invalid_socket,
    HTTPException: _on_http,
    Exception: _on_defect,
}
