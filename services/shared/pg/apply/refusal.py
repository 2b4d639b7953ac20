"""Errors of changes that the destination refuses, or whose row it lacks."""

from __future__ import annotations

import psycopg

from services.shared.model import ErrorKind, PgmigError, TableId
from services.shared.pg.apply.target_table import Operation


class CommitFailedError(Exception):
    """The commit that was sent together with later statements has failed. `error` has the reason."""

    def __init__(self, error: PgmigError) -> None:
        super().__init__(str(error))
        self.error = error


class RefusedError(PgmigError):
    """The destination refuses a change, or lacks its row. table: the table of the change."""

    table: TableId | None = None
    may_pass: bool = False
    """A duplicate key, or a missing row: where others write too, the next attempt may find it."""
    duplicate: Operation | None = None
    """The operation that the destination refuses because of a value that must be unique."""

    @classmethod
    def of(cls, error: PgmigError, table: TableId | None) -> RefusedError:
        refused = cls(error.kind, error.message, error.hint, error.lsn)
        refused.table = table
        return refused


def where_refused(diag: psycopg.errors.Diagnostic, operation: Operation | None) -> str:
    """` (table public.t, row id=2, constraint t_check)`, as far as known."""
    table = f"{diag.schema_name}.{diag.table_name}" if diag.table_name else ""
    if operation is not None and operation.table is not None:
        table = table or str(operation.table)
    key = operation.key if operation is not None else ""
    known = [f"table {table}" if table else "", f"row {key}" if key else ""]
    known.append(f"constraint {diag.constraint_name}" if diag.constraint_name else "")
    text = ", ".join(filter(None, known))
    return f" ({text})" if text else ""


def missing_row(operation: Operation, count: int) -> RefusedError:
    which = f"row with {operation.key}" if operation.key else f"{(operation.rows or 0) - count} of the rows"
    missing = PgmigError(
        ErrorKind.MISSING_ROW,
        f"{operation.table} on the destination lacks the {which} that a change of the source is about",
        "find out who changed the destination; put the row back, then continue",
    )
    refused = RefusedError.of(missing, operation.table)
    refused.may_pass = True
    return refused
