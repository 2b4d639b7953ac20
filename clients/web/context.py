"""What routes get: the server's parts, the migration that a path names, and whether the operator asks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import HTTPConnection
from starlette.responses import Response

from clients.web.feeds import Feeds
from clients.web.limits import Limits
from clients.web.migrations import Migrations
from clients.web.problems import Refusal, RefusedError
from clients.web.tokens import Token
from services.shared.model import MigrationId


@dataclass(frozen=True, slots=True)
class Web:
    migrations: Migrations
    feeds: Feeds
    token: Token
    limits: Limits
    allow_hooks: bool


async def _web(connection: HTTPConnection) -> Web:
    web: Web = connection.app.state.web
    return web


async def _migration_id(
    migration_id: Annotated[str, Path(pattern="^[a-z][a-z0-9_]{0,39}$", description="The migration.")],
) -> MigrationId:
    return MigrationId.parse(migration_id)


_bearer = HTTPBearer(auto_error=False, scheme_name="operator", description="The operator's token.")


async def _has_token(connection: HTTPConnection, web: Annotated[Web, Depends(_web)]) -> bool:
    scheme, given = get_authorization_scheme_param(connection.headers.get("authorization"))
    return scheme.lower() == "bearer" and web.token.matches(given)


async def _operator(
    web: Annotated[Web, Depends(_web)],
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    if given is None or not web.token.matches(given.credentials):
        what = "needs the operator's token" if given is None else "has a token that is not the operator's"
        raise RefusedError(
            Refusal.TOKEN_NEEDED,
            f"this request {what}",
            "send it in the header `Authorization: Bearer TOKEN`; `pgmig-cli serve` says where it is",
        )


Parts = Annotated[Web, Depends(_web)]
Named = Annotated[MigrationId, Depends(_migration_id)]
HasToken = Annotated[bool, Depends(_has_token)]
"""For requests that are answered with more if they have the operator's token."""
OPERATOR = Depends(_operator)


def json_response(document: object, status: int = 200) -> Response:
    """Text that is not UTF-8, as names of an old server may be, is escaped."""
    return Response(json.dumps(document), status, media_type="application/json")
