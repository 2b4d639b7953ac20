"""Units of copying: a table, or a range of its rows, under one exported snapshot.

A large table can be split by the position of its rows in the heap (source 14 or later, which can scan
such a range) or by the values of an integer key. The first and the last range are open, so that
together they contain every row, even outside the estimates from which the ranges were made.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.model.lsn import Lsn
from services.shared.model.tables.table import TableId


@dataclass(frozen=True, slots=True)
class CtidRange:
    """Rows in the heap's blocks from `first` to before `end`; None: to the last block."""

    first: int
    end: int | None


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Rows with low <= column < end; None: no limit. The column is an integer and never NULL."""

    column: str
    low: int | None
    end: int | None


PartRange = CtidRange | KeyRange


@dataclass(frozen=True, slots=True)
class Split:
    """How a table is split into parts: not at all, by its heap's pages, or by an integer key.

    pages: the size of the heap in blocks; 0: split by key. column, low, high: the key, and its least
    and greatest value.
    """

    parts: int = 1
    pages: int = 0
    column: str = ""
    low: int = 0
    high: int = 0

    def ranges(self) -> tuple[PartRange | None, ...]:
        """The range of each part; (None,) if the table is not split."""
        if self.parts <= 1:
            return (None,)
        if self.column:
            cuts = self._cuts(self.low, self.high + 1)
            lows, ends = (None, *cuts), (*cuts, None)
            return tuple(KeyRange(self.column, low, end) for low, end in zip(lows, ends, strict=True))
        cuts = self._cuts(0, self.pages)
        return tuple(CtidRange(first, end) for first, end in zip((0, *cuts), (*cuts, None), strict=True))

    def _cuts(self, low: int, end: int) -> tuple[int, ...]:
        return tuple(low + (end - low) * number // self.parts for number in range(1, self.parts))


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """How a table is or was copied. Copied parts are valid only for the plan that they belong to.

    epoch: unique for each plan. snapshot: identity of the snapshot under which all parts are
    copied.
    """

    table: TableId
    epoch: str
    snapshot: str
    split: Split = Split()


@dataclass(frozen=True, slots=True)
class CopyPart:
    """One unit of copying: a table or a range of its rows, under one exported snapshot.

    columns: the columns to copy, in this order, without generated ones. snapshot_lsn: the snapshot
    contains transactions that committed before it. binary: COPY ... (FORMAT binary) is safe for every
    column. snapshot_xids: the snapshot's txid_current_snapshot(), "" if not known. A restarted server may
    give another snapshot the same name; the copier refuses a snapshot that sees other transactions.
    epoch: of its plan. rows: None for the whole table. Then the part empties the table first; a table
    that is split was emptied when its plan was made.
    """

    part_id: str
    table: TableId
    columns: tuple[str, ...]
    snapshot_name: str
    snapshot_lsn: Lsn
    binary: bool
    snapshot_xids: str = ""
    epoch: str = ""
    rows: PartRange | None = None


@dataclass(frozen=True, slots=True)
class CopiedPart:
    """A copied part as recorded in the ledger on the destination. bytes: of COPY data."""

    snapshot_lsn: Lsn
    rows: int
    bytes: int
    epoch: str = ""
