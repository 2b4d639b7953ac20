"""Migration options that contradict each other."""

from __future__ import annotations

from services.shared.model.conflicts.policy import OnConflict
from services.shared.model.errors import ErrorKind, PgmigError
from services.shared.model.view.migration import MigrationOptions, NoKeyTables


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
    _check_bidirectional(options)
    for _ in chosen.patterns():
        pass


def _check_bidirectional(options: MigrationOptions) -> None:
    for name, given in (
        ("--on-conflict", options.on_conflict is not OnConflict.STOP),
        ("--sequence-stride", options.sequence_stride),
    ):
        if given and not options.bidirectional:
            raise PgmigError(
                ErrorKind.INVALID_ARGUMENT,
                f"{name} has no effect without --bidirectional",
                "give --follow and --bidirectional, or leave it out",
            )
    if not options.bidirectional:
        return
    if not options.follow:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT, "--bidirectional replicates changes", "give --follow, too"
        )
    for name, given, why in (
        ("--no-guard-destination", options.no_guard_destination, "both sides have to be equal at first"),
        (
            "--confirm-after-standby",
            options.confirm_after_standby,
            "pgmig cannot wait for the standbys of both sides at once",
        ),
        (
            f"--no-key-tables {options.no_key_tables}",
            options.no_key_tables is not NoKeyTables.REFUSE,
            "changes of the two sides meet at the key of a row",
        ),
    ):
        if given:
            raise PgmigError(
                ErrorKind.INVALID_ARGUMENT, f"{name} and --bidirectional contradict each other", why
            )
