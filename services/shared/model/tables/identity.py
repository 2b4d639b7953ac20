"""The identity of a table, and what has changed in it. A name is not enough: tables are dropped and
re-created, renamed, detached and rewritten.

An identity is read from the source's catalogs under the snapshot that the table is copied with, and
compared with the catalogs later. The difference decides what is needed: DDL on the destination, or a new
copy of the table, since no change stream contains what the statement did to existing rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from services.shared.model.tables.table import TableId


@dataclass(frozen=True, slots=True)
class ColumnIdentity:
    """A column that is not dropped, from pg_attribute.

    number: attnum. collation, generated, identity: attcollation (0: none), attgenerated, attidentity.
    default: a hash of pg_attrdef.adbin; 0 if there is none. version: xmin of the row in pg_attribute, which
    changes with every ALTER TABLE of the column.
    """

    number: int
    name: str
    type_oid: int
    typmod: int
    collation: int
    not_null: bool
    default: int
    generated: str
    identity: str
    version: str


@dataclass(frozen=True, slots=True)
class TableIdentity:
    """A table, partition or partitioned table, as seen by one snapshot.

    kind: pg_class.relkind, r or p; a partitioned table has no rows and no file of its own. file:
    pg_class.relfilenode, which changes with TRUNCATE or a rewrite. persistence: relpersistence.
    published: the rows of pg_publication_rel, pg_publication and pg_inherits that make our publication
    include it; "" if it does not. sends_generated: the publication sends stored generated columns.
    """

    table: TableId
    oid: int
    kind: str
    file: int
    persistence: str
    published: str
    sends_generated: bool
    columns: tuple[ColumnIdentity, ...]

    @property
    def has_rows(self) -> bool:
        """Whether it is copied."""
        return self.kind == "r"

    @property
    def logged(self) -> bool:
        """Whether its changes are in the WAL."""
        return self.persistence == "p"

    @property
    def signature(self) -> str:
        """Equal to `relation_signature` of the Relation messages that describe the table."""
        sent = (column for column in self.columns if not column.generated or self._sends(column))
        return relation_signature((column.name, column.type_oid, column.typmod) for column in sent)

    def _sends(self, column: ColumnIdentity) -> bool:
        return self.sends_generated and column.generated == "s"


def relation_signature(columns: Iterable[tuple[str, int, int]]) -> str:
    """A digest of a Relation message's columns: name, type OID and typmod of each, in order."""
    text = repr([tuple(column) for column in columns])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class ChangeKind(StrEnum):
    """What happened to a table on the source, classified by what the migration needs to continue."""

    GONE = "gone"  # dropped or renamed: the destination's table must be dropped too
    REPLACED = "replaced"  # another table has its name
    MOVED = "moved"  # the publication did not include it, at least for a while
    REWRITTEN = "rewritten"  # rows may have new values that no change stream contains
    COLUMNS = "columns"  # the rows are the same; the destination needs the same DDL

    @property
    def needs_copy(self) -> bool:
        return self in {ChangeKind.REPLACED, ChangeKind.MOVED, ChangeKind.REWRITTEN}


def change_of(before: TableIdentity, now: TableIdentity | None) -> ChangeKind | None:
    """The most severe difference between a table when it was copied and now; None if there is none.

    If only the file differs, the cause is TRUNCATE, which is replicated, or VACUUM FULL. If only the
    columns' versions differ, the cause is a new statistics target, storage or option.
    """
    if now is None:
        return ChangeKind.GONE
    if now.oid != before.oid:
        return ChangeKind.REPLACED
    if now.published != before.published or now.persistence != before.persistence:
        return ChangeKind.MOVED
    altered = now.columns != before.columns
    if altered and (now.file != before.file or _names_reused(before, now)):
        return ChangeKind.REWRITTEN
    return ChangeKind.COLUMNS if _shapes(before) != _shapes(now) else None


def _shapes(table: TableIdentity) -> list[tuple[object, ...]]:
    return [
        (c.number, c.name, c.type_oid, c.typmod, c.collation, c.not_null, c.default, c.generated, c.identity)
        for c in table.columns
    ]


def _names_reused(before: TableIdentity, now: TableIdentity) -> bool:
    """Whether a name now means another column: a column was dropped and added, or two swapped names."""
    numbers = {column.name: column.number for column in before.columns}
    return any(numbers.get(column.name, column.number) != column.number for column in now.columns)
