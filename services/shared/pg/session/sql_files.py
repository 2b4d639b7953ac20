"""SQL that is long enough for a file of its own, and columns of catalogs that not every version has."""

from __future__ import annotations

from importlib.resources import files
from typing import LiteralString

# By the marker in a query: the server_version_num from which the column exists, the column, and what older
# servers read instead. No query converts a whole row of a catalog to JSON to read such a column, because that
# would also convert attmissingval, by casts that the owner of a type may have defined (S16). The cast of
# attmissingval to text calls the type's output function.
_SINCE: dict[LiteralString, tuple[int, LiteralString, LiteralString]] = {
    "{i.indnkeyatts}": (110000, "i.indnkeyatts", "i.indnatts"),
    "{c.conparentid}": (110000, "c.conparentid", "0::oid"),
    "{a.attmissingval}": (110000, "a.attmissingval::text", "NULL::text"),
    "{a.attgenerated}": (120000, "a.attgenerated::text", "''::text"),
    "{s.stxexprs}": (140000, "s.stxexprs::text", "NULL::text"),
    "{b.pubgencols}": (180000, "b.pubgencols::text", "'n'::text"),
}


def load_sql(name: str) -> LiteralString:
    """The text of a `.sql` file. name: its path within this package, such as "catalog/sql/tables.sql"."""
    return files("services.shared.pg").joinpath(name).read_text(encoding="utf-8")


def load_sql_for(name: str, version: int) -> LiteralString:
    """`load_sql` for a server of this server_version_num."""
    return for_version(load_sql(name), version)


def for_version(query: LiteralString, version: int) -> LiteralString:
    """The query with columns that a server of this server_version_num has."""
    for marker, (since, column, before) in _SINCE.items():
        query = query.replace(marker, column if version >= since else before)
    return query
