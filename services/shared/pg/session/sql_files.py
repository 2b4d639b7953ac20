"""SQL that is long enough for a file of its own."""

from __future__ import annotations

from importlib.resources import files
from typing import LiteralString


def load_sql(name: str) -> LiteralString:
    """The text of a `.sql` file. name: its path within this package, such as "catalog/sql/tables.sql"."""
    return files("services.shared.pg").joinpath(name).read_text(encoding="utf-8")
