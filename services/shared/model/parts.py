"""Parts of copying: a table, or a range of its rows, under one exported snapshot.

A large table may be split by the place of its rows in the heap (source 14 or newer, which can scan
such a range) or by the values of an integer key. The first and the last range are open, so
that together they hold every row, wherever the estimates that they were made from ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.model.lsn import Lsn
from services.shared.model.tables import TableId


@dataclass(frozen=True, slots=True)
class CtidRange:
    """Rows in the heap's blocks from `first` up to, without, `end`; None: to the last."""

    first: int
    end: int | None


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Rows with low <= column < end; None: no limit. The column is an integer, never NULL."""

    column: str
    low: int | None
    end: int | None


PartRange = CtidRange | KeyRange


@dataclass(frozen=True, slots=True)
class Split:
    """How a table is cut into parts: not at all, by its heap's pages, or by an integer key.

    pages: the heap's size in blocks; 0: by key. column, low, high: the key and its least and
    greatest value.
    """

    parts: int = 1
    pages: int = 0
    column: str = ""
    low: int = 0
    high: int = 0

    def ranges(self) -> tuple[PartRange | None, ...]:
        """One for each part; (None,) when the table is not cut."""
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
    """How a table is being copied, or was. Parts count only for the plan that they belong to.

    epoch: tells it from every other plan. snapshot: identity of the snapshot that all its parts
    are copied under.
    """

    table: TableId
    epoch: str
    snapshot: str
    split: Split = Split()


@dataclass(frozen=True, slots=True)
class CopyPart:
    """One unit of copying: a table or a range of its rows, under one exported snapshot.

    columns: those copied, in this order (no generated ones). snapshot_lsn: commits before it
    are in the snapshot. binary: COPY ... (FORMAT binary) is safe for every column.
    snapshot_xids: its txid_current_snapshot(), "" when not known. A restarted server may give
    another snapshot the same name; the copier refuses one that sees other transactions.
    epoch: of its plan. rows: None for the whole table, which the part then empties
    before; the table of a range was emptied when its plan was made.
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
    """As the ledger on the destination has it. bytes: of COPY data."""

    snapshot_lsn: Lsn
    rows: int
    bytes: int
    epoch: str = ""
