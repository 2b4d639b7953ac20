"""Waiting for a migration until it ends: the common part of `clone`, `follow` and `watch`."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from clients.cli.fragments import fields
from clients.cli.options import Invocation, Uris
from clients.cli.output import print_table
from clients.cli.progress import Progress
from clients.diagnostics import say, warn
from clients.presentation.figures import duration
from clients.presentation.phases import elapsed
from clients.presentation.sentences import applied_text, copied_text, lost_for_good, switchover_result
from services.shared.model import ErrorKind, ExitCode, MigrationId, MigrationView, PgmigError, Phase

if TYPE_CHECKING:
    from clients.session import Session


class MigrationStoppedError(PgmigError):
    """The migration failed or was aborted. The exit code is the same for every cause."""

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.FAILED


def stopped(view: MigrationView) -> MigrationStoppedError:
    """Why a migration in phase failed or aborted does not continue."""
    name = view.migration_id
    if view.phase is Phase.ABORTED:
        hint = f"remove what is left with `pgmig-cli cleanup --id {name}`"
        return MigrationStoppedError(ErrorKind.INTERNAL, f"migration {name} was aborted", hint)
    again = "" if lost_for_good(view) else f"continue with `pgmig-cli follow --id {name}`"
    if view.failure is None:
        return MigrationStoppedError(ErrorKind.INTERNAL, f"migration {name} failed", again)
    message = f"migration {name} failed: {view.failure.message}"
    hint = "; ".join(filter(None, [view.failure.hint, again]))
    return MigrationStoppedError(view.failure.kind, message, hint, view.failure.lsn or None, view.failure.xid)


async def resumed(
    session: Session, view: MigrationView, uris: Uris, skip_objects: tuple[str, ...] = ()
) -> MigrationView:
    """Resume a migration that waits for an operator, and send the given URIs. The coordinator uses them,
    or refuses them with an error that names both databases."""
    given = bool(uris.source or uris.destination) and not view.phase.ended
    if given or view.phase in {Phase.PAUSED, Phase.FAILED} or view.needs_credentials:
        source, destination = uris.source or None, uris.destination or None
        return await session.resume(view.migration_id, source, destination, skip_objects)
    return view


async def follow_to_end(
    session: Session, migration_id: MigrationId, progress: Progress, uris: Uris | None = None
) -> MigrationView:
    """Show the migration until it has ended successfully, and return its last view.

    uris: sent whenever a restarted coordinator needs them. Raises MigrationStoppedError if the migration
    fails or is aborted, PgmigError(NOT_FOUND) if it is cleaned up in the meantime.
    """
    async with aclosing(session.follow(migration_id.value, progress.connection)) as views:
        async for view in views:
            progress.show(view)
            if view.phase in {Phase.FAILED, Phase.ABORTED}:
                raise stopped(view)
            if view.phase.ended and not switching(view):
                return view
            if view.needs_credentials and view.phase.running and uris is not None:
                await resumed(session, view, uris)
    raise PgmigError(ErrorKind.NOT_FOUND, f"migration {migration_id} was cleaned up meanwhile")


def switching(view: MigrationView) -> bool:
    """Whether the switchover is decided and has not ended. The coordinator is still opening the destination
    and stopping the workers; if they were stopped from here at the same time, it would wait for their answers
    in vain."""
    return view.operation is not None and not view.operation.state.ended


def print_summary(invocation: Invocation, view: MigrationView) -> None:
    """The outcome, as the command's data. With JSON, the last line already contains it."""
    if invocation.json:
        return
    rows = [(str(view.phase), f"migration {view.migration_id}, {duration(elapsed(view, 0.0)[0])} in all")]
    if view.tables:
        rows.append(("copied", copied_text(view.tables)))
    if view.rates.transactions_applied:
        rows.append(("applied", applied_text(view)))
    if view.switchover is not None:
        rows.append(("switchover", switchover_result(view.switchover)))
    print_table(fields(rows))


def say_how_to_continue(migration_id: MigrationId, *, has_slot: bool) -> None:
    """Called after an interruption that stopped an embedded stack."""
    kept = (
        f"; replication slot {migration_id.forward.slot} stays on the source and keeps WAL there"
        if has_slot
        else ""
    )
    say(f"stopped; migration {migration_id} is kept{kept}")
    say(f"continue: pgmig-cli follow --id {migration_id}")
    say(f"give up:  pgmig-cli abort --id {migration_id}")


def say_what_is_undone(view: MigrationView) -> None:
    """Called after an interruption between the decision and the end of a switchover."""
    for warning in view.switchover.warnings if view.switchover is not None else ():
        warn(f"the switchover is decided, but {warning}")
    say("the switchover is decided, but what follows it is not finished: the destination may be read-only")
    say(f"finish it: pgmig-cli follow --id {view.migration_id}")
