"""Reads the source's catalogs once, to find tables that differ from what was copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from services.shared.model import (
    ChangeKind,
    Lsn,
    MigrationOptions,
    PipelineId,
    TableId,
    TableIdentity,
    change_of,
)
from services.shared.pg.catalog.selected import choose
from services.shared.pg.catalog.table_identity import KnownTable, read_identities
from services.shared.pg.replication.position import wal_insert_position, wal_position
from services.shared.pg.selection.rules import EVERYTHING, Chosen
from services.shared.pg.session.connection import Connection


@dataclass(frozen=True, slots=True)
class Difference:
    """A table that was copied, and what has changed in it."""

    kind: ChangeKind
    before: TableIdentity
    now: TableIdentity | None

    @property
    def table(self) -> TableId:
        return self.before.table


@dataclass(frozen=True, slots=True)
class Look:
    """known: the tables as recorded on the destination. now: the source's tables. at, end: the end of the
    source's WAL on disk, and in memory; what `now` shows was committed before `end`. chosen: the objects
    that are migrated."""

    known: Mapping[TableId, KnownTable]
    now: Mapping[TableId, TableIdentity]
    at: Lsn
    end: Lsn
    chosen: Chosen = EVERYTHING

    def differences(self) -> tuple[Difference, ...]:
        """Tables that differ from what was copied, by name."""
        found = []
        for table, known in sorted(self.known.items()):
            kind = change_of(known.identity, self.now.get(table))
            if kind is not None:
                found.append(Difference(kind, known.identity, self.now.get(table)))
        return tuple(found)

    def target(self, table: TableId) -> TableId:
        """The destination's table that contains its rows."""
        return (self.known[table].root if table in self.known else None) or table

    def refreshed(self) -> list[KnownTable]:
        """Tables that are the same, in a new file or with new catalog rows."""
        return [
            replace(known, identity=self.now[table])
            for table, known in self.known.items()
            if table in self.now
            and self.now[table] != known.identity
            and change_of(known.identity, self.now[table]) is None
        ]

    def added(self) -> tuple[TableId, ...]:
        """Published tables that were not copied: partitions of a published table."""
        return self._unknown(one for one in self.now.values() if one.published and one.has_rows)

    def added_parents(self) -> tuple[TableId, ...]:
        """New partitions of a published table that are partitioned themselves."""
        return self._unknown(one for one in self.now.values() if one.published and not one.has_rows)

    def unpublished(self) -> tuple[TableId, ...]:
        """Tables that were created since then, and whose changes are not replicated."""
        return self._unknown(one for one in self.now.values() if not one.published)

    def _unknown(self, tables: Iterable[TableIdentity]) -> tuple[TableId, ...]:
        names = (one.table for one in tables if one.table not in self.known)
        return tuple(sorted(name for name in names if self.chosen.fills(name)))


async def look(
    source: Connection,
    known: Mapping[TableId, KnownTable],
    pipeline: PipelineId,
    options: MigrationOptions,
) -> Look:
    """Read the source's catalogs. known: `known_tables` of the destination."""
    chosen = await choose(source, options)
    now = await read_identities(source, pipeline)
    return Look(known, now, await wal_position(source), await wal_insert_position(source), chosen)
