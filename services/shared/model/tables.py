"""Tables and columns as the catalogs describe them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, order=True)
class TableId:
    """A relation's schema and name, unquoted."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class ReplicaIdentity(StrEnum):
    """pg_class.relreplident."""

    DEFAULT = "d"
    NOTHING = "n"
    FULL = "f"
    INDEX = "i"


@dataclass(frozen=True, slots=True)
class Route:
    """A partition of the source whose rows go to `root`, the table that it is a part of."""

    leaf: TableId
    root: TableId


@dataclass(frozen=True, slots=True)
class IdentityBefore:
    """A table that was given REPLICA IDENTITY FULL, and what it had before. index: the name of the index
    that was its identity, "" if none was."""

    table: TableId
    identity: ReplicaIdentity
    index: str = ""


@dataclass(frozen=True, slots=True)
class TableFile:
    """pg_relation_filenode of a table: another one after TRUNCATE or whatever rewrites the table."""

    table: TableId
    filenode: int


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `type_oid` is pg_attribute.atttypid; `generated` a stored generated column
    (its value is never sent); `identity_always` is GENERATED ALWAYS AS IDENTITY."""

    name: str
    type_oid: int
    generated: bool = False
    identity_always: bool = False


@dataclass(frozen=True, slots=True)
class SourceTable:
    """An ordinary table or partition leaf that is copied, as found under the snapshot.

    rows_estimated: pg_class.reltuples, 0 when never analysed. bytes_estimated: heap and TOAST.
    pages: blocks of its heap; 0 for another access method.
    integer_key: the first column of its primary key, where that is an integer.
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
