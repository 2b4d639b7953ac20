"""The choice of pg_dump for the versions of a migration's two servers."""

from __future__ import annotations

from services.coordinator.migration.state import Migration
from services.shared.pg.schema.dump_tools import DumpTools, find_tools
from services.shared.pg.session.uri import requires_tls


async def schema_tools(migration: Migration) -> DumpTools:
    record = migration.record
    source, destination = (end.server_version_num // 10000 for end in (record.source, record.destination))
    return await find_tools(source, destination, tls=requires_tls(record.source))
