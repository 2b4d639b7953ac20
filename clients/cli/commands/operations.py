"""`operations`: the last switchovers of a migration."""

from __future__ import annotations

import click

from clients.cli.coordinator import connected
from clients.cli.fragments import operation_rows
from clients.cli.options import Invocation, common_options
from clients.cli.output import print_json, print_table
from clients.cli.signals import run
from clients.diagnostics import say
from services.shared.model import Operation
from services.shared.model.view.jsonview import to_json


@click.command()
@common_options
def operations(invocation: Invocation) -> None:
    """List the last switchovers of a migration, with their states and results."""
    found = run(_operations(invocation))
    if invocation.json:
        print_json([to_json(operation) for operation in found])
    elif found:
        print_table(operation_rows(found))
    else:
        say("no operations")


async def _operations(invocation: Invocation) -> tuple[Operation, ...]:
    async with connected(invocation, "list the operations of") as (session, migration_id):
        return await session.list_operations(migration_id.value)
