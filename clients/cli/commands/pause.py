"""`pause` and `resume`."""

from __future__ import annotations

import click

from clients.cli.coordinator import connected
from clients.cli.options import Invocation, Uris, common_options, skip_object_option, uri_options
from clients.cli.output import print_json, print_table
from clients.cli.signals import run
from services.shared.model import (
    MigrationOptions,
    MigrationView,
    Phase,
)
from services.shared.model.view.jsonview import view_to_json


@click.command()
@common_options
def pause(invocation: Invocation) -> None:
    """Stop moving data until `resume`. Meanwhile the slot retains the source's WAL."""
    _report(invocation, run(_pause(invocation)))


async def _pause(invocation: Invocation) -> MigrationView:
    async with connected(invocation, "pause") as (session, migration_id):
        return await session.pause(migration_id.value)


@click.command()
@uri_options
@common_options
@skip_object_option
def resume(invocation: Invocation, uris: Uris, skip_objects: tuple[str, ...]) -> None:
    """Continue a paused or failed migration under the coordinator that runs it.

    With connection strings it also sends credentials that a restarted coordinator needs.
    If no process is running any more, use `follow` to start everything again.
    """
    _report(invocation, run(_resume(invocation, uris, skip_objects)))


async def _resume(invocation: Invocation, uris: Uris, skip_objects: tuple[str, ...]) -> MigrationView:
    async with connected(invocation, "resume") as (session, migration_id):
        source, destination = uris.source or None, uris.destination or None
        return await session.resume(migration_id.value, source, destination, skip_objects)


def _report(invocation: Invocation, view: MigrationView) -> None:
    if invocation.json:
        print_json(view_to_json(view))
        return
    keeps = "; the slot keeps WAL on the source" if _keeps_wal(view.phase, view.options) else ""
    print_table(f"migration {view.migration_id} is in phase {view.phase}{keeps}")


def _keeps_wal(phase: Phase, options: MigrationOptions) -> bool:
    return phase is Phase.PAUSED and options.follow
