"""`watch` and `tui`: showing a migration until it ends, without affecting it."""

from __future__ import annotations

import click

from clients.cli.coordinator import connected
from clients.cli.faces import Faces
from clients.cli.options import Invocation, common_options
from clients.cli.outcome import follow_to_end, print_summary
from clients.cli.progress import progress_of
from clients.cli.signals import run
from clients.diagnostics import has_terminal
from services.shared.model import ErrorKind, MigrationView, PgmigError


@click.command()
@common_options
def watch(invocation: Invocation) -> None:
    """Show progress until the migration ends. Ctrl-C does not affect the migration."""
    print_summary(invocation, run(_watch(invocation)))


async def _watch(invocation: Invocation) -> MigrationView:
    async with connected(invocation, "watch") as (session, migration_id):
        with progress_of(invocation) as progress:
            return await follow_to_end(session, migration_id, progress)


@click.command()
@common_options
@click.pass_context
def tui(ctx: click.Context, invocation: Invocation) -> None:
    """Open the dashboard of a migration."""
    address, migration_id = run(_dashboard_target(invocation))
    if not has_terminal():
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            "the dashboard needs a terminal, and this command has none",
            "run it in a terminal, or use `pgmig-cli watch`",
        )
    faces: Faces = ctx.obj
    ctx.exit(faces.dashboard(address, migration_id))


async def _dashboard_target(invocation: Invocation) -> tuple[str, str]:
    async with connected(invocation, "watch") as (session, migration_id):
        return session.address, migration_id.value
