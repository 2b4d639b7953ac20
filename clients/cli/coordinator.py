"""Which coordinator a command connects to, and which migration it is about.

`--coordinator` names one. Otherwise the state directory of this machine is searched for an embedded
stack that runs for the migration (in another terminal), or for its last recorded state.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from clients.cli.options import DEFAULT_ID, Invocation, Uris
from clients.diagnostics import StderrTalk
from clients.embedded.local_state import MigrationDir, known_migrations
from clients.embedded.stack import CLONE_WORKERS, FOLLOW_WORKERS, StackPlan, Talk, embedded_stack
from services.shared.model import ErrorKind, MigrationId, PgmigError

if TYPE_CHECKING:
    from clients.session import Session


def new_id(invocation: Invocation) -> MigrationId:
    """The id of a migration that may not exist yet."""
    return invocation.migration_id or MigrationId.parse(DEFAULT_ID)


def local_directory(invocation: Invocation) -> MigrationDir:
    """The migration on this machine: `--id`, or the only one that is known.

    Raises PgmigError: NOT_FOUND if there is none, INVALID_ARGUMENT if there are several.
    """
    known = [directory.migration_id.value for directory in known_migrations(invocation.state_dir)]
    chosen = invocation.migration_id or _only(known, f"in {invocation.state_dir}")
    return MigrationDir(invocation.state_dir, chosen)


def _only(known: list[str], place: str) -> MigrationId:
    if not known:
        raise PgmigError(
            ErrorKind.NOT_FOUND,
            f"no migration is known {place}",
            "start one with `pgmig-cli clone --follow`, or name a coordinator with --coordinator",
        )
    if len(known) > 1:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"several migrations are known {place}: {', '.join(known)}",
            "choose one with --id",
        )
    return MigrationId.parse(known[0])


def nothing_runs(directory: MigrationDir, doing: str) -> PgmigError:
    """The error of a command that needs a running coordinator."""
    migration_id = directory.migration_id
    if not directory.state_file.exists():
        return PgmigError(
            ErrorKind.NOT_FOUND,
            f"migration {migration_id} is not known in {directory.root}",
            "see `pgmig-cli list`; for a remote one give --coordinator",
        )
    return PgmigError(
        ErrorKind.UNREACHABLE,
        f"cannot {doing} migration {migration_id}: no process runs for it on this machine",
        f"continue it in one terminal with `pgmig-cli follow --id {migration_id}`, "
        "then repeat this command in another",
    )


@asynccontextmanager
async def connected(invocation: Invocation, doing: str) -> AsyncIterator[tuple[Session, MigrationId]]:
    """A session with the coordinator that runs the migration, and the migration's id.

    doing: what the command is about to do, for errors: "pause".
    """
    from clients.session import Session

    if invocation.coordinator:
        async with Session(invocation.coordinator) as session:
            yield session, invocation.migration_id or await _only_remote(session)
        return
    directory = local_directory(invocation)
    stack = directory.running_stack()
    if stack is None:
        raise nothing_runs(directory, doing)
    async with Session(stack.coordinator) as session:
        yield session, directory.migration_id


async def _only_remote(session: Session) -> MigrationId:
    known = [view.migration_id for view in await session.list_all()]
    return _only(known, f"to the coordinator at {session.address}")


@asynccontextmanager
async def coordinated(
    invocation: Invocation, uris: Uris, doing: str
) -> AsyncIterator[tuple[Session, MigrationId]]:
    """As `connected`, but if no coordinator runs, start one for the block, without workers."""
    if not invocation.coordinator:
        directory = local_directory(invocation)
        if directory.running_stack() is None:
            uris.require(
                f"no process runs for migration {directory.migration_id}, so to {doing} it needs both"
            )
            async with own_stack(directory, uris, StderrTalk(), ()) as session:
                yield session, directory.migration_id
            return
    async with connected(invocation, doing) as found:
        yield found


@asynccontextmanager
async def own_stack(
    directory: MigrationDir, uris: Uris, talk: Talk, workers: tuple[str, ...] = FOLLOW_WORKERS
) -> AsyncIterator[Session]:
    """A session with an embedded stack that lives as long as the block.

    workers: their roles; none for removing what a migration left.
    """
    plan = StackPlan(directory, uris.source, uris.destination, workers)
    async with embedded_stack(plan, talk) as stack:
        from clients.session import Session  # at the same time as the services import

        async with Session(await stack.serving()) as session:
            yield session


def workers_for(directory: MigrationDir, *, follow: bool) -> tuple[str, ...]:
    """The roles of the workers that a migration needs. follow: applies to a new migration; an existing one
    keeps its own option."""
    offline = directory.offline_view()
    if offline is not None:
        follow = offline.view.options.follow
    return FOLLOW_WORKERS if follow else CLONE_WORKERS
