"""Routes that change nothing. Those that show a row's key, or logs, need the operator's token."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from clients.presentation.documents import document, freshness
from clients.presentation.progress import Order, ordered
from clients.session import Session
from clients.web import logs
from clients.web.context import OPERATOR, HasToken, Named, Parts, json_response
from clients.web.masking import shown, shown_operation
from clients.web.migrations import Known, Unread
from clients.web.problems import problem_of
from clients.web.requests import (
    CertificateQuery,
    ConflictsQuery,
    EventsQuery,
    LogQuery,
    ReadinessQuery,
    TableSort,
    TablesQuery,
)
from clients.web.schemas import answer
from services.shared.model import ErrorKind, LagLimit, MigrationView, Operation, PgmigError, TableProgress
from services.shared.model.view.jsonview import to_json

router = APIRouter(prefix="/api/v1/migrations", tags=["migrations"])

READINESS_KEPT_S = 1.0

_ORDERS = {
    TableSort.STATE: Order.STATE,
    TableSort.SIZE: Order.SIZE,
    TableSort.NAME: Order.NAME,
    TableSort.PROGRESS: Order.PROGRESS,
}


@router.get("", operation_id="list", responses={200: answer("Migrations", "All migrations.")})
async def list_migrations(web: Parts, operator: HasToken) -> Response:
    """All migrations, without their tables and events. `problem`: why the coordinator of one does not answer.
    One of which nothing can be read has only `migration_id` and `problem`."""
    now = time.time()
    return json_response([_listed(one, operator, now) for one in await web.migrations.list_all()])


def _listed(one: Known | Unread, operator: bool, now: float) -> dict[str, object]:
    if isinstance(one, Unread):
        return {"migration_id": one.migration_id.value, "problem": problem_of(one.problem)}
    found = document(shown(one.view, operator=operator), one.recorded_at, now)
    del found["tables"], found["events"]
    return {**found, "problem": problem_of(one.problem) if one.problem is not None else None}


@router.get("/{migration_id}", operation_id="get", responses={200: answer("Migration", "The migration.")})
async def get(web: Parts, migration_id: Named, operator: HasToken) -> Response:
    """The document that `pgmig-cli status --output json` prints. Commands of hooks, and what they have
    printed, are shown only with the operator's token."""
    known = await web.migrations.get(migration_id)
    return json_response(document(shown(known.view, operator=operator), known.recorded_at, time.time()))


@router.get("/{migration_id}/tables", operation_id="tables", responses={200: answer("Tables", "One page.")})
async def tables(web: Parts, migration_id: Named, query: Annotated[TablesQuery, Query()]) -> Response:
    """A page of the tables. total: how many there are on all pages."""
    known = await web.migrations.get(migration_id)
    found = _selected(known.view, query)
    page = found[query.offset : query.offset + query.limit]
    fresh = freshness(known.recorded_at, time.time())
    return json_response({"total": len(found), "tables": [to_json(table) for table in page], **fresh})


def _selected(view: MigrationView, query: TablesQuery) -> list[TableProgress]:
    wanted = query.search.casefold()
    found = [
        table
        for table in view.tables
        if wanted in str(table.table).casefold() and query.state in {None, table.state}
    ]
    found = ordered(found, _ORDERS[query.sort])
    return found[::-1] if query.descending else found


@router.get("/{migration_id}/events", operation_id="events", responses={200: answer("Events", "The events.")})
async def events(
    web: Parts, migration_id: Named, operator: HasToken, query: Annotated[EventsQuery, Query()]
) -> Response:
    """The events after a number, the oldest first. Only the last 200 are kept: if `first`, the number of the
    oldest, is more than one above the number that was asked for, some are missing. last: of the newest."""
    view = shown((await web.migrations.get(migration_id)).view, operator=operator)
    found = [event for event in view.events if event.number > query.after or not query.after]
    numbers = [event.number for event in view.events]
    return json_response(
        {
            "first": numbers[0] if numbers else 0,
            "last": numbers[-1] if numbers else 0,
            "events": [to_json(event) for event in found[: query.limit]],
        }
    )


@router.get(
    "/{migration_id}/configuration",
    operation_id="configuration",
    responses={200: answer("Configuration", "The configuration.")},
)
async def configuration(web: Parts, migration_id: Named) -> Response:
    """What the migration was started with, without passwords."""
    found = await web.migrations.find(migration_id)
    view = shown((await web.migrations.get(migration_id)).view)
    return json_response(
        {
            "migration_id": view.migration_id,
            "coordinator": found.address if isinstance(found, Session) else "",
            "source": to_json(view.source),
            "destination": to_json(view.destination),
            "options": to_json(view.options),
        }
    )


@router.get(
    "/{migration_id}/readiness",
    operation_id="readiness",
    responses={200: answer("Readiness", "The reasons.")},
)
async def readiness(web: Parts, migration_id: Named, query: Annotated[ReadinessQuery, Query()]) -> Response:
    """Whether it can be switched over. Both servers are asked, at most once a second."""
    session = await web.migrations.session(migration_id, "check")
    limit = LagLimit(query.max_lag_bytes, query.max_lag_seconds)
    found = await web.migrations.read(
        session,
        ("readiness", migration_id, limit),
        lambda: session.readiness(migration_id.value, limit),
        READINESS_KEPT_S,
    )
    return json_response(to_json(found))


@router.get(
    "/{migration_id}/operations",
    operation_id="operations",
    responses={200: answer("Operations", "The last ones.")},
)
async def operations(web: Parts, migration_id: Named, operator: HasToken) -> Response:
    """The last switchovers and rollbacks, the oldest first."""
    session = await web.migrations.session(migration_id, "list the operations of")
    found = await web.migrations.read(
        session, ("operations", migration_id), lambda: session.list_operations(migration_id.value)
    )
    return json_response([to_json(shown_operation(one, operator=operator)) for one in found])


@router.get(
    "/{migration_id}/operations/{operation_id}",
    operation_id="operation",
    responses={200: answer("Operation", "The operation.")},
)
async def operation(web: Parts, migration_id: Named, operation_id: str, operator: HasToken) -> Response:
    session = await web.migrations.session(migration_id, "show an operation of")
    found = await web.migrations.read(
        session,
        ("operation", migration_id, operation_id),
        lambda: operation_of(session, migration_id.value, operation_id),
    )
    return json_response(to_json(shown_operation(found, operator=operator)))


async def operation_of(session: Session, migration_id: str, operation_id: str) -> Operation:
    """Raises NOT_FOUND also for an operation of another migration."""
    found = await session.get_operation(operation_id)
    if found.migration_id != migration_id:
        raise PgmigError(
            ErrorKind.NOT_FOUND,
            f"migration {migration_id} has no operation {operation_id[:100]!r}",
            "GET its operations",
        )
    return found


@router.get(
    "/{migration_id}/certificate",
    operation_id="certificate",
    responses={200: answer("Certificate", "The certificate.")},
)
async def certificate(
    web: Parts, migration_id: Named, query: Annotated[CertificateQuery, Query()]
) -> Response:
    """The document that `pgmig-cli certificate --output json` prints, also after a cleanup."""
    return json_response(await web.migrations.certificate(migration_id, query.operation))


@router.get(
    "/{migration_id}/conflicts",
    operation_id="conflicts",
    dependencies=[OPERATOR],
    responses={200: answer("ConflictReport", "The last conflicts.")},
)
async def conflicts(web: Parts, migration_id: Named, query: Annotated[ConflictsQuery, Query()]) -> Response:
    """The last conflicts with the keys of their rows, the newest first."""
    session = await web.migrations.session(migration_id, "list the conflicts of")
    return json_response(to_json(await session.list_conflicts(migration_id.value, query.limit)))


@router.get(
    "/{migration_id}/logs",
    operation_id="logs",
    dependencies=[OPERATOR],
    responses={200: answer("Logs", "The logs.")},
)
async def list_logs(web: Parts, migration_id: Named) -> Response:
    """The logs of the programs that `clone` or `follow` has started on this machine. Empty for services on
    other hosts."""
    await web.migrations.get(migration_id)
    found = await asyncio.to_thread(lambda: logs.sizes(web.migrations.places.logs(migration_id)))
    return json_response({"logs": [to_json(one) for one in found]})


@router.get(
    "/{migration_id}/logs/{name}",
    operation_id="log",
    dependencies=[OPERATOR],
    responses={200: answer("Log", "Some lines.")},
)
async def log(web: Parts, migration_id: Named, name: str, query: Annotated[LogQuery, Query()]) -> Response:
    """Whole lines of a log, at most 64 kB; of a longer line the beginning. Ask again with
    `next_offset` to follow it. If the log was replaced meanwhile, `offset` of the answer is 0."""
    await web.migrations.get(migration_id)
    found = await asyncio.to_thread(
        lambda: logs.read(web.migrations.places.logs(migration_id), name, query.offset)
    )
    return json_response(to_json(found))
