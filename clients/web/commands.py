"""Routes that change something. All of them need the operator's token."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

from fastapi import APIRouter
from starlette.responses import Response

from clients.web.context import OPERATOR, Named, Parts, Web, json_response
from clients.web.masking import shown, shown_operation
from clients.web.problems import Refusal, RefusedError
from clients.web.reading import operation_of
from clients.web.requests import Cleanup, Request, Resume, Resync, Rollback, Skip, Switchover, Unfreeze, Uris
from clients.web.schemas import Schema, answer
from services.shared.model import (
    DryRunResult,
    DryRunStep,
    ErrorKind,
    Lsn,
    MigrationView,
    Operation,
    PgmigError,
    SwitchoverOptions,
)
from services.shared.model.view.jsonview import to_json, view_to_json

router = APIRouter(prefix="/api/v1/migrations/{migration_id}", tags=["commands"], dependencies=[OPERATOR])

_VIEW: dict[int | str, Schema] = {200: answer("MigrationView", "The migration afterwards.")}
_REQUESTED: dict[int | str, Schema] = {202: answer("Operation", "It goes on without this request: watch it.")}
_NOTHING = Request()
_NO_URIS = Uris()


def _view(view: MigrationView) -> Response:
    return json_response(view_to_json(shown(view, operator=True)))


def _options(web: Web, body: Rollback) -> SwitchoverOptions:
    """Raises RefusedError if there are commands, and the operator did not allow them."""
    options = body.options
    if any(options.hooks.values()) and not web.allow_hooks:
        raise RefusedError(
            Refusal.HOOKS_NOT_ALLOWED,
            "this server does not accept commands for the coordinator's host",
            "start `pgmig-cli serve` with --allow-hooks, or configure the coordinator's own hooks",
        )
    return options


def _operation(operation: Operation) -> Response:
    return json_response(to_json(shown_operation(operation, operator=True)), 202)


@router.post("/pause", operation_id="pause", responses=_VIEW)
async def pause(web: Parts, migration_id: Named, nothing: Request = _NOTHING) -> Response:
    """Stop moving data until it is resumed. Meanwhile the slot retains the source's WAL."""
    session = await web.migrations.session(migration_id, "pause")
    return _view(await session.pause(migration_id.value))


@router.post("/resume", operation_id="resume", responses=_VIEW)
async def resume(web: Parts, migration_id: Named, body: Resume = Resume()) -> Response:  # noqa: B008 - frozen
    """Continue a paused or failed migration, and give credentials that a restarted coordinator needs."""
    session = await web.migrations.session(migration_id, "resume")
    return _view(await session.resume(migration_id.value, body.source, body.destination, body.skip_objects))


@router.post("/skip-transaction", operation_id="skip_transaction", responses=_VIEW)
async def skip_transaction(web: Parts, migration_id: Named, body: Skip) -> Response:
    """Skip the source transaction on which the migration failed, and continue. The skip is recorded."""
    session = await web.migrations.session(migration_id, "skip a transaction of")
    view = await session.skip_transaction(
        migration_id.value,
        Lsn.parse(body.lsn),
        body.reason,
        body.who,
        source_uri=body.source,
        destination_uri=body.destination,
    )
    return _view(view)


@router.post("/resync-tables", operation_id="resync_tables", responses=_VIEW)
async def resync_tables(web: Parts, migration_id: Named, body: Resync) -> Response:
    """Copy tables again under a new snapshot, or add tables that were created since the start."""
    session = await web.migrations.session(migration_id, "copy tables of")
    return _view(
        await session.resync_tables(migration_id.value, body.table_ids, body.source, body.destination)
    )


@router.post("/switchover", operation_id="switchover", status_code=202, responses=_REQUESTED)
async def switchover(web: Parts, migration_id: Named, body: Switchover) -> Response:
    """Request a switchover. Repeat a request that was not answered with the same `request_id`."""
    session = await web.migrations.session(migration_id, "switch over")
    return _operation(
        await session.begin_switchover(migration_id.value, _options(web, body), body.request_id)
    )


@router.post(
    "/switchover/dry-run", operation_id="dry_run", responses={200: answer("DryRun", "What was found.")}
)
async def dry_run(web: Parts, migration_id: Named, body: Switchover) -> Response:
    """Only the steps of a switchover that change nothing and block nobody, and an estimate for how long
    writes would be blocked."""
    session = await web.migrations.session(migration_id, "check")
    limit = replace(body.max_lag.limit, seconds=body.max_lag.seconds or body.timeout_ms / 1000)
    done: list[DryRunStep] = []
    async with aclosing(session.dry_run(migration_id.value, limit, _options(web, body))) as steps:
        async for one in steps:
            if isinstance(one, DryRunResult):
                return json_response({"steps": [to_json(step) for step in done], "result": to_json(one)})
            done.append(one)
    raise PgmigError(
        ErrorKind.UNREACHABLE, "the dry run did not finish", "see that the coordinator runs, then try again"
    )


@router.post("/rollback", operation_id="rollback", status_code=202, responses=_REQUESTED)
async def rollback(web: Parts, migration_id: Named, body: Rollback) -> Response:
    """Request the way back after a switchover with `reverse`."""
    session = await web.migrations.session(migration_id, "roll back")
    return _operation(await session.begin_rollback(migration_id.value, _options(web, body), body.request_id))


@router.post(
    "/operations/{operation_id}/proceed", operation_id="proceed", status_code=202, responses=_REQUESTED
)
async def proceed(
    web: Parts, migration_id: Named, operation_id: str, nothing: Request = _NOTHING
) -> Response:
    """Let an operation proceed that was requested with `hold`."""
    session = await web.migrations.session(migration_id, "let an operation proceed of")
    known = await operation_of(session, migration_id.value, operation_id)
    return _operation(await session.proceed_operation(known.operation_id))


@router.post(
    "/operations/{operation_id}/cancel", operation_id="cancel", status_code=202, responses=_REQUESTED
)
async def cancel(web: Parts, migration_id: Named, operation_id: str, nothing: Request = _NOTHING) -> Response:
    """Cancel an operation that is not decided. Watch it for its end."""
    session = await web.migrations.session(migration_id, "cancel an operation of")
    known = await operation_of(session, migration_id.value, operation_id)
    return _operation(await session.cancel_operation(known.operation_id))


@router.post("/finalize", operation_id="finalize", responses=_VIEW)
async def finalize(web: Parts, migration_id: Named, body: Uris = _NO_URIS) -> Response:
    """End the replication back after a switchover. `left` lists what could not be removed."""
    session = await web.migrations.session(migration_id, "finalize")
    return _view(await session.finalize(migration_id.value, body.source, body.destination))


@router.post("/unfreeze", operation_id="unfreeze", responses=_VIEW)
async def unfreeze(web: Parts, migration_id: Named, body: Unfreeze) -> Response:
    """Open the old source to sessions again, after a switchover."""
    session = await web.migrations.session(migration_id, "unfreeze")
    view = await session.unfreeze(migration_id.value, body.source, body.destination, read_only=body.read_only)
    return _view(view)


@router.post("/abort", operation_id="abort", responses=_VIEW)
async def abort(web: Parts, migration_id: Named, body: Uris = _NO_URIS) -> Response:
    """Cancel a migration: drop its replication slot and publication. The copied data is kept. `left` lists
    what could not be removed."""
    session = await web.migrations.session(migration_id, "abort")
    return _view(await session.abort(migration_id.value, body.source, body.destination))


@router.post(
    "/cleanup", operation_id="cleanup", responses={200: answer("CleanupResult", "What was removed.")}
)
async def cleanup(web: Parts, migration_id: Named, body: Cleanup = Cleanup()) -> Response:  # noqa: B008 - frozen
    """Remove everything that a migration left on both servers, then forget it. The certificates of its
    switchovers are first written to files of the state directory."""
    session = await web.migrations.session(migration_id, "clean up")
    await web.migrations.places.keep_certificates(migration_id, force=body.force)
    done = await session.cleanup(migration_id.value, body.source, body.destination, force=body.force)
    return json_response(to_json(done))
