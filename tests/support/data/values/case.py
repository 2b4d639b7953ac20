"""One column type, with values that are difficult to copy.

A case is a type as SQL names it and SQL expressions that the server casts to it. Expressions depend on no
settings except those that the writer's session sets (WRITER_SETTINGS).
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

WRITER_SETTINGS = (
    "-c DateStyle=ISO,MDY -c IntervalStyle=postgres -c TimeZone=UTC -c extra_float_digits=3 "
    "-c bytea_output=hex -c lc_monetary=C -c array_nulls=on -c xmloption=content -c search_path=public "
    "-c standard_conforming_strings=on -c client_encoding=UTF8 "
    "-c default_transaction_isolation=read\\ committed -c statement_timeout=0"
)
"""libpq options for a session that writes these values or reads them for comparison."""


@dataclass(frozen=True, slots=True)
class Case:
    """portable: the type's send function gives the same bytes on every server (no OIDs of user-defined
    types)."""

    sql_type: str
    values: tuple[str, ...]
    portable: bool = True


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return sql.Literal(text).as_string().strip()


def strings(*texts: str) -> tuple[str, ...]:
    return tuple(literal(text) for text in texts)
