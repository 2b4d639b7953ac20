"""Two databases, and the objects that copy a table from one to the other."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from services.shared.model import CopyPart, MigrationId, PgmigError
from services.shared.pg.bookkeeping.copy_ledger import read_ledger
from services.shared.pg.copy.part import Copied, PartCopier
from services.shared.pg.session.connection import connection
from tests.support.copying.databases import SNAPSHOT_LSN, execute, exported_snapshot, part

PIPELINE = MigrationId("m1").forward


@dataclass(frozen=True, slots=True)
class Bed:
    source: str
    dest: str

    def both(self, *statements: str) -> None:
        execute(self.source, *statements)
        execute(self.dest, *statements)

    async def copy(self, given: CopyPart) -> Copied | None:
        copier = PartCopier(self.source, self.dest, PIPELINE)
        try:
            return await copier.copy(given, lambda _rows, _size: None)
        finally:
            await copier.close()

    async def copy_table(self, table: str, *columns: str, binary: bool = False) -> Copied | None:
        with exported_snapshot(self.source) as snapshot:
            return await self.copy(part(table, *columns, snapshot=snapshot, binary=binary))

    async def failure(self, table: str, *columns: str) -> PgmigError:
        with pytest.raises(PgmigError) as caught:
            await self.copy_table(table, *columns)
        return caught.value

    async def ledger(self) -> dict[str, tuple[int, int]]:
        async with connection(self.dest, "destination") as conn:
            entries = (await read_ledger(conn, PIPELINE)).parts
        assert {entry.snapshot_lsn for entry in entries.values()} <= {SNAPSHOT_LSN}
        return {key: (entry.rows, entry.bytes) for key, entry in entries.items()}
