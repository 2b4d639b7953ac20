"""`unfreeze`, `abort` and `cleanup`: opening the old source, cancelling, and removing what was left.

All of them work without a running stack. They start one that has a coordinator and a broker but no
workers, so that no data is moved.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from clients.cli.certificates.places import keep
from clients.cli.coordinator import coordinated
from clients.cli.options import Invocation, Uris, common_options, uri_options
from clients.cli.output import print_json, print_table
from clients.cli.signals import run
from clients.diagnostics import can_ask, say, warn
from clients.embedded.local_state import MigrationDir
from services.shared.model import CleanupResult, ExitCode, MigrationId, MigrationView
from services.shared.model.view.jsonview import to_json, view_to_json


@click.command()
@uri_options
@common_options
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def abort(invocation: Invocation, uris: Uris, yes: bool) -> None:
    """Cancel a migration: drop its replication slot and publication. The copied data is kept.

    What is on a server that cannot be reached is listed, with exit code 9. `cleanup` removes it later.
    """
    if not yes:
        confirm("Abort the migration? It cannot be continued afterwards.")
    view = run(_abort(invocation, uris))
    if invocation.json:
        print_json(view_to_json(view))
    else:
        print_table(f"migration {view.migration_id} is in phase {view.phase}")
    end_if_left(view.left, view.migration_id, forced=False)


def end_if_left(left: Sequence[str], migration_id: str, *, forced: bool) -> None:
    """End with exit code 9 if something could not be removed."""
    for thing in left:
        warn(f"not removed: {thing}")
    if not left:
        return
    if not forced:
        say(
            f"remove it with `pgmig-cli cleanup --id {migration_id}` when the server can be reached; if that "
            "will never be, forget the migration with --force"
        )
    click.get_current_context().exit(ExitCode.LEFT_BEHIND)


async def _abort(invocation: Invocation, uris: Uris) -> MigrationView:
    async with coordinated(invocation, uris, "abort") as (session, migration_id):
        return await session.abort(migration_id.value, uris.source or None, uris.destination or None)


@click.command()
@uri_options
@common_options
@click.option(
    "--read-only",
    is_flag=True,
    help="Make sessions read-only by default. Those that ask for a read-write transaction can still write.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def unfreeze(invocation: Invocation, uris: Uris, read_only: bool, yes: bool) -> None:
    """Open the old source to sessions again, after a switchover.

    A switchover closes the old source to all connections, so that nothing can be written there that is
    missing on the destination. Without --read-only, everything is restored to the state before the
    switchover: subscriptions are enabled again, and both sides accept writes. Later writes are not
    replicated from one side to the other.
    """
    if not (read_only or yes):
        confirm("Let writers write to the old source again? Their changes do not reach the destination.")
    view = run(_unfreeze(invocation, uris, read_only=read_only))
    if invocation.json:
        print_json(view_to_json(view))
    else:
        print_table(f"the old source of migration {view.migration_id} accepts connections again")


async def _unfreeze(invocation: Invocation, uris: Uris, *, read_only: bool) -> MigrationView:
    async with coordinated(invocation, uris, "unfreeze") as (session, migration_id):
        return await session.unfreeze(
            migration_id.value, uris.source or None, uris.destination or None, read_only=read_only
        )


@click.command()
@uri_options
@common_options
@click.option(
    "--force",
    is_flag=True,
    help="Also while the migration has not ended. Forget the migration even if something cannot be removed.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def cleanup(invocation: Invocation, uris: Uris, force: bool, yes: bool) -> None:
    """Remove everything that a migration left on both servers and on this machine, then forget it.

    The certificates of its switchovers are kept in kept-certificates/ of the state directory.

    What cannot be removed is listed, with exit code 9. If a server cannot be reached, the migration is kept,
    so that the next `cleanup` removes the rest. It cannot be continued any more.
    """
    if force and not yes:
        confirm("Clean up the migration even if it has not ended? It cannot be continued afterwards.")
    migration_id, done = run(_cleanup(invocation, uris, force=force))
    if invocation.json:
        print_json(to_json(done))
    else:
        for thing in done.removed:
            print_table(f"removed {thing}")
        if not (done.removed or done.left):
            say("nothing was left to remove")
    end_if_left(done.left, migration_id.value, forced=force)


async def _cleanup(invocation: Invocation, uris: Uris, *, force: bool) -> tuple[MigrationId, CleanupResult]:
    async with coordinated(invocation, uris, "clean up") as (session, migration_id):
        await keep(invocation, session, migration_id.value, force=force)
        done = await session.cleanup(
            migration_id.value, uris.source or None, uris.destination or None, force=force
        )
    if not invocation.coordinator and (force or not done.left):
        directory = MigrationDir(invocation.state_dir, migration_id)
        if directory.running_stack() is None:
            directory.forget()
    return migration_id, done


def confirm(question: str) -> None:
    """Ask a person; a script is not asked. Raises click.Abort."""
    if can_ask():
        click.confirm(question, abort=True, err=True)
