"""What a table is, and what has changed of it. A name proves nothing: tables are dropped and made again,
renamed, detached, rewritten.

An identity is read from the source's catalogs under the snapshot that the table is copied with, and
compared with the catalogs later on. What differs decides what is needed: DDL on the destination, or
a new copy of the table, since no change stream carries what the statement did to existing rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from services.shared.model.tables import TableId


@dataclass(frozen=True, slots=True)
class ColumnIdentity:
    """A column that is not dropped, from pg_attribute.

    number: attnum. collation, generated, identity: attcollation (0: none), attgenerated, attidentity.
    default: a hash of pg_attrdef.adbin, 0 without one. version: xmin of the row in pg_attribute, which
    any ALTER TABLE of the column replaces.
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
    """A table, partition or partitioned table, as one snapshot shows it.

    kind: pg_class.relkind, r or p; a partitioned table has neither rows of its own nor a file. file:
    pg_class.relfilenode, another one after TRUNCATE or a rewrite. persistence: relpersistence.
    published: the rows of pg_publication_rel, pg_publication and pg_inherits by which our publication
    carries it; "" when it does not. sends_generated: the publication carries stored generated columns.
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
        """As `relation_signature` of the Relation messages that describe the table."""
        sent = (column for column in self.columns if not column.generated or self._sends(column))
        return relation_signature((column.name, column.type_oid, column.typmod) for column in sent)

    def _sends(self, column: ColumnIdentity) -> bool:
        return self.sends_generated and column.generated == "s"


def relation_signature(columns: Iterable[tuple[str, int, int]]) -> str:
    """A digest of a Relation message's columns: name, type OID and typmod of each, in their order."""
    text = repr([tuple(column) for column in columns])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class ChangeKind(StrEnum):
    """What happened to a table on the source, by what it takes to go on."""

    GONE = "gone"  # dropped or renamed: the destination's table has to go too
    REPLACED = "replaced"  # another table has its name
    MOVED = "moved"  # the publication lost it, at least for a while
    REWRITTEN = "rewritten"  # rows may have new values that no change stream carries
    COLUMNS = "columns"  # the same rows; the destination needs the same DDL

    @property
    def needs_copy(self) -> bool:
        return self in {ChangeKind.REPLACED, ChangeKind.MOVED, ChangeKind.REWRITTEN}


def change_of(before: TableIdentity, now: TableIdentity | None) -> ChangeKind | None:
    """The gravest difference between a table when it was copied and now; None: there is none.

    Another file alone is a TRUNCATE, which is replicated, or VACUUM FULL. Columns of other versions
    alone are another statistics target, storage or option.
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
    """Whether a name stands for another column than before: dropped and added, or renamed crosswise."""
    numbers = {column.name: column.number for column in before.columns}
    return any(numbers.get(column.name, column.number) != column.number for column in now.columns)
