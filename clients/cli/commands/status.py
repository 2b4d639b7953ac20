"""`status` and `list`. If no process is running, they read the state files."""

from __future__ import annotations

import time

import click

from clients.cli.coordinator import connected, local_directory, nothing_runs
from clients.cli.options import Invocation, common_options
from clients.cli.output import print_json, print_table, stdout_console
from clients.cli.screens import list_rows
from clients.cli.screens import status as status_screen
from clients.cli.signals import run
from clients.diagnostics import say, warn
from clients.embedded.local_state import MigrationDir, known_migrations
from clients.presentation.documents import document
from clients.session import Session
from services.shared.model import MigrationView, PgmigError


@click.command()
@common_options
@click.option("--tables", is_flag=True, help="Show every table, not only those that are being copied.")
def status(invocation: Invocation, tables: bool) -> None:
    """Show the state of a migration. If no process is running, show the last recorded state."""
    view, offline_since = run(_status(invocation))
    if invocation.json:
        print_json(document(view, offline_since, time.time()))
        return
    width = stdout_console().width
    print_table(status_screen(view, time.time(), width, offline_since=offline_since, all_tables=tables))


async def _status(invocation: Invocation) -> tuple[MigrationView, float | None]:
    """The view, and the time when it was written if it is not live."""
    if invocation.coordinator:
        async with connected(invocation, "show") as (session, migration_id):
            return await session.get(migration_id.value), None
    return await _local_view(local_directory(invocation))


async def _local_view(directory: MigrationDir) -> tuple[MigrationView, float | None]:
    stack = directory.running_stack()
    if stack is not None:
        try:
            async with Session(stack.coordinator) as session:
                return await session.get(directory.migration_id.value), None
        except PgmigError as exc:
            if not exc.policy.retry:
                raise
            warn(f"the coordinator of this machine does not answer ({exc}); this is the last recorded state")
    offline = directory.offline_view()
    if offline is None:
        raise nothing_runs(directory, "show")
    return offline.view, offline.written_at


@click.command(name="list")
@common_options
def list_command(invocation: Invocation) -> None:
    """List the migrations of this machine, or of a coordinator."""
    entries = run(_list(invocation))
    if invocation.migration_id is not None:
        entries = [entry for entry in entries if entry[0].migration_id == invocation.migration_id.value]
    if invocation.json:
        now = time.time()
        print_json([document(view, since, now) for view, since in entries])
    elif entries:
        print_table(list_rows([(view, since is None) for view, since in entries], time.time()))
    else:
        say("no migrations")


async def _list(invocation: Invocation) -> list[tuple[MigrationView, float | None]]:
    if invocation.coordinator:
        async with Session(invocation.coordinator) as session:
            return [(view, None) for view in await session.list_all()]
    entries = []
    for directory in known_migrations(invocation.state_dir):
        try:
            entries.append(await _local_view(directory))
        except PgmigError as exc:
            warn(f"{directory.migration_id}: {exc}")
    return entries
