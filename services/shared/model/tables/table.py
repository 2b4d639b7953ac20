"""Tables and columns as described by the catalogs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

_PLAIN = re.compile(r'[^."]+')
_QUALIFIED = re.compile(r'(?:"((?:[^"]|"")+)"|([^."]+))\.(?:"((?:[^"]|"")+)"|([^."]+))')


@dataclass(frozen=True, slots=True, order=True)
class TableId:
    """A relation's schema and name, unquoted."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read SCHEMA.TABLE. Each name is plain, or in double quotes as in SQL. Raises ValueError."""
        match = _QUALIFIED.fullmatch(text)
        if match is None:
            raise ValueError(f"not a table's name with its schema: {text!r}")
        quoted = (name.replace('""', '"') if name is not None else None for name in match.group(1, 3))
        schema, name = (quote or plain for quote, plain in zip(quoted, match.group(2, 4), strict=True))
        return cls(schema, name)

    @property
    def argument(self) -> str:
        """The form that `parse` reads."""
        if _PLAIN.fullmatch(self.schema) and _PLAIN.fullmatch(self.name):
            return str(self)
        return ".".join('"' + part.replace('"', '""') + '"' for part in (self.schema, self.name))


class ReplicaIdentity(StrEnum):
    """pg_class.relreplident."""

    DEFAULT = "d"
    NOTHING = "n"
    FULL = "f"
    INDEX = "i"


@dataclass(frozen=True, slots=True)
class Route:
    """A partition of the source whose rows are stored in `root`, the partitioned table that it belongs to."""

    leaf: TableId
    root: TableId


@dataclass(frozen=True, slots=True)
class IdentityBefore:
    """A table that got REPLICA IDENTITY FULL, and its identity before. index: the name of the index that
    was its identity; "" if none was."""

    table: TableId
    identity: ReplicaIdentity
    index: str = ""


@dataclass(frozen=True, slots=True)
class TableFile:
    """pg_relation_filenode of a table; it changes with TRUNCATE and with anything that rewrites the table."""

    table: TableId
    filenode: int


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `type_oid` is pg_attribute.atttypid; `generated` means a stored generated column
    (its value is never sent); `identity_always` means GENERATED ALWAYS AS IDENTITY."""

    name: str
    type_oid: int
    generated: bool = False
    identity_always: bool = False


@dataclass(frozen=True, slots=True)
class SourceTable:
    """An ordinary table or partition leaf that is copied, as seen by the snapshot.

    rows_estimated: pg_class.reltuples; 0 if never analyzed. bytes_estimated: heap and TOAST.
    pages: blocks of its heap; 0 for another access method.
    integer_key: the first column of its primary key, if that column is an integer.
    """

    table: TableId
    oid: int
    columns: tuple[Column, ...]
    replica_identity: ReplicaIdentity
    has_replica_key: bool
    rows_estimated: int
    bytes_estimated: int
    logged: bool = True
    pages: int = 0
    integer_key: str = ""
