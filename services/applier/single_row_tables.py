"""Tables whose changes are written one at a time for a while."""

from __future__ import annotations

from services.shared.model import TableId

FEWEST_GROUPS = 64  # groups
MOST_GROUPS = 4096


class SingleRowTables:
    """Tables with refused sets. Their changes are written one at a time for a while, twice as long after
    each further refusal, because an application that swaps keys usually does so again."""

    def __init__(self) -> None:
        self._groups: dict[TableId, int] = {}
        self._left: dict[TableId, int] = {}

    def refused(self, table: TableId | None) -> None:
        """A set of `table` was refused."""
        if table is not None:
            self._groups[table] = min(MOST_GROUPS, 2 * self._groups.get(table, FEWEST_GROUPS // 2))
            self._left[table] = self._groups[table]

    def of_next_group(self) -> frozenset[TableId]:
        """The tables whose changes must be written one at a time in the next group."""
        single_row = frozenset(self._left)
        self._left = {table: left - 1 for table, left in self._left.items() if left > 1}
        return single_row
