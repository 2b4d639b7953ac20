"""Every row of a history's tables, on both sides, as text."""

from __future__ import annotations

from collections import Counter

import psycopg

from tests.property.play import History
from tests.property.table import Table

OPTIONS = (
    "-c TimeZone=UTC -c DateStyle=ISO,MDY -c IntervalStyle=postgres -c extra_float_digits=3"
    " -c bytea_output=hex -c lc_monetary=C -c search_path=public"
)
_SHOWN = 3


def differences(source: psycopg.Connection, destination: psycopg.Connection, history: History) -> list[str]:
    """One text for each table whose rows, as the source's columns have them, are not the same."""
    found = []
    for table in history.schema.tables:
        there, here = _rows(source, table), _rows(destination, table)
        if there != here:
            found.append(
                f"{table.sql} of history {history.seed}: {there.total()} rows at the source, "
                f"{here.total()} at the destination\n"
                f"  only at the source: {_some(there - here)}\n"
                f"  only at the destination: {_some(here - there)}"
            )
    return found


def _rows(connection: psycopg.Connection, table: Table) -> Counter[tuple[object, ...]]:
    columns = ", ".join(f"{column.sql}::text" for column in table.columns)
    return Counter(connection.execute(f"SELECT {columns} FROM {table.sql}".encode()).fetchall())


def _some(rows: Counter[tuple[object, ...]]) -> str:
    return "; ".join(str(row)[:400] for row in sorted(rows, key=repr)[:_SHOWN]) or "nothing"
