"""`conflicts`: changes of both sides that met at one row."""

from __future__ import annotations

import click
from rich.table import Table

from clients.cli.coordinator import connected
from clients.cli.fragments import columns
from clients.cli.options import Invocation, common_options
from clients.cli.output import print_json, print_table
from clients.cli.signals import run
from clients.diagnostics import say
from clients.presentation.figures import clock, printable
from services.shared.model.view.conflicts import ConflictReport
from services.shared.model.view.jsonview import to_json


@click.command()
@common_options
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    help="List so many of the last conflicts.",
)
def conflicts(invocation: Invocation, limit: int) -> None:
    """List conflicts of a migration whose both sides are written to.

    A conflict is recorded on the side where the change arrived, with the key of the row. `applied`: the row
    has the change. `kept`: it was left as it was. `stopped`: the pipeline has stopped there.
    """
    found = run(_conflicts(invocation, limit))
    if invocation.json:
        print_json(to_json(found))
    elif found.counts:
        print_table(_counts(found))
        print_table(_rows(found))
    else:
        say("no conflicts")


async def _conflicts(invocation: Invocation, limit: int) -> ConflictReport:
    async with connected(invocation, "list the conflicts of") as (session, migration_id):
        return await session.list_conflicts(migration_id.value, limit)


def _counts(report: ConflictReport) -> Table:
    shown = columns("DIRECTION", "CONFLICT", "DECISION", "COUNT")
    for one in report.counts:
        shown.add_row(one.direction, one.kind, one.decision, str(one.count))
    return shown


def _rows(report: ConflictReport) -> Table:
    shown = columns("RESOLVED", "DIRECTION", "TABLE", "KEY", "CONFLICT", "DECISION", "REMOTE", "LOCAL")
    for one in report.conflicts:
        key = ", ".join(f"{part.column}={part.value}" for part in one.key)
        shown.add_row(
            clock(one.resolved_at),
            one.direction,
            printable(str(one.table)),
            printable(key or "-"),
            one.kind,
            one.decision,
            clock(one.remote_at),
            clock(one.local_at) if one.local_at else "-",
        )
    return shown
