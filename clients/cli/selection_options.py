"""Options for which part of a database is copied, and how existing data on the destination is handled."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from services.shared.model import MigrationOptions, Selection

Command = Callable[..., Any]

_PATTERNS = (
    ("--include-table", "include_tables", "Copy these tables, views and sequences, and what they need."),
    ("--exclude-table", "exclude_tables", "Leave out these tables, views and sequences."),
    ("--exclude-table-data", "exclude_table_data", "Create these tables without copying rows."),
    ("--include-schema", "include_schemas", "Copy these schemas, and what they need."),
    ("--exclude-schema", "exclude_schemas", "Leave out these schemas."),
)


def selection_options(command: Command) -> Command:
    """Adds the options. Passes `taking`, a MigrationOptions with only these set, and `yes`."""

    @wraps(command)
    def wrapper(*args: Any, schema_only: bool, data_only: bool, drop_if_exists: bool, **rest: Any) -> Any:
        patterns = {name: tuple(rest.pop(name)) for _, name, _ in _PATTERNS}
        taking = MigrationOptions(
            selection=Selection(**patterns),
            schema_only=schema_only,
            data_only=data_only,
            drop_if_exists=drop_if_exists,
        )
        return command(*args, taking=taking, **rest)

    options = [
        click.option(option, name, multiple=True, metavar="PATTERN", help=f"{text} Repeatable.")
        for option, name, text in _PATTERNS
    ]
    options += [
        click.option("--schema-only", is_flag=True, help="No rows and no sequence values."),
        click.option(
            "--data-only", is_flag=True, help="Only rows, into tables that the destination has; empties them."
        ),
        click.option(
            "--drop-if-exists",
            is_flag=True,
            help="Drop existing destination objects before re-creating them.",
        ),
        click.option(
            "--yes",
            "-y",
            is_flag=True,
            help="Confirm that --data-only and --drop-if-exists may delete rows and objects.",
        ),
    ]
    decorated: Command = wrapper
    for option in reversed(options):
        decorated = option(decorated)
    return decorated
