"""Migration options that contradict each other."""

from __future__ import annotations

from services.shared.model.errors import ErrorKind, PgmigError
from services.shared.model.view.migration import MigrationOptions


def check_options(options: MigrationOptions) -> None:
    """Raises INVALID_ARGUMENT for the first contradiction, and for an invalid pattern."""
    chosen = options.selection
    for first, second, both, hint in (
        (
            "--schema-only",
            "--follow",
            options.schema_only and options.follow,
            "a schema has no changes to replicate",
        ),
        ("--schema-only", "--data-only", options.schema_only and options.data_only, "give one of them"),
        (
            "--data-only",
            "--drop-if-exists",
            options.data_only and options.drop_if_exists,
            "rows are copied into existing tables; leave out --data-only to create the tables again",
        ),
        (
            "--include-table",
            "--include-schema",
            bool(chosen.include_tables and chosen.include_schemas),
            "say --include-table 'SCHEMA.*' for the tables of a schema",
        ),
    ):
        if both:
            raise PgmigError(ErrorKind.INVALID_ARGUMENT, f"{first} and {second} contradict each other", hint)
    for _ in chosen.patterns():
        pass
