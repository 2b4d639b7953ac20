"""`resync-table`: copying tables again while changes are replicated."""

from __future__ import annotations

import click

from clients.cli.coordinator import coordinated
from clients.cli.options import Invocation, Uris, common_options, uri_options
from clients.cli.output import print_json, print_table
from clients.cli.signals import run
from services.shared.model import MigrationView, TableId
from services.shared.model.view.jsonview import view_to_json


class TableName(click.ParamType[TableId]):
    name = "SCHEMA.TABLE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> TableId:
        try:
            return TableId.parse(str(value))
        except ValueError:
            self.fail(f"{value!r} is not SCHEMA.TABLE; put names with dots in double quotes", param, ctx)


@click.command(name="resync-table")
@uri_options
@common_options
@click.argument("tables", nargs=-1, required=True, type=TableName())
def resync_table(invocation: Invocation, uris: Uris, tables: tuple[TableId, ...]) -> None:
    """Copy tables again under a new snapshot, or add tables that were created since the start.

    The rows of these tables are replaced on the destination. Changes to all tables wait until the
    copy is complete. Use it after a statement on the source whose effect on existing rows is not
    replicated, such as ALTER TABLE ... TYPE or ATTACH PARTITION. The table must exist on the
    destination with the same columns.
    """
    view = run(_resync(invocation, uris, tables))
    if invocation.json:
        print_json(view_to_json(view))
    else:
        named = ", ".join(map(str, tables))
        print_table(f"migration {view.migration_id} copies again: {named}")


async def _resync(invocation: Invocation, uris: Uris, tables: tuple[TableId, ...]) -> MigrationView:
    async with coordinated(invocation, uris, "copy tables of") as (session, migration_id):
        return await session.resync_tables(
            migration_id.value, tables, uris.source or None, uris.destination or None
        )
