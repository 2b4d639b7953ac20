"""Where the web server finds migrations: what the command line knows of coordinators and this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clients.cli.certificates.document import to_document
from clients.cli.certificates.places import find, keep
from clients.cli.coordinator import connected, nothing_runs
from clients.cli.options import Invocation
from clients.embedded.local_state import MigrationDir, known_migrations
from clients.serving import Recorded
from services.shared.model import MigrationId, PgmigError


class LocalPlaces:
    """See `clients.serving.Places`."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation

    @property
    def coordinator(self) -> str:
        return self._invocation.coordinator or ""

    def known(self) -> tuple[MigrationId, ...]:
        return tuple(directory.migration_id for directory in known_migrations(self._invocation.state_dir))

    def address(self, migration_id: MigrationId) -> str:
        if self.coordinator:
            return self.coordinator
        stack = self._directory(migration_id).running_stack()
        return stack.coordinator if stack is not None else ""

    def recorded(self, migration_id: MigrationId) -> Recorded | None:
        if self.coordinator:
            return None
        offline = self._directory(migration_id).offline_view()
        return Recorded(offline.view, offline.written_at) if offline is not None else None

    def not_running(self, migration_id: MigrationId, doing: str) -> PgmigError:
        return nothing_runs(self._directory(migration_id), doing)

    def logs(self, migration_id: MigrationId) -> dict[str, Path]:
        if self.coordinator:
            return {}
        return {path.stem: path for path in sorted(self._directory(migration_id).log_dir.glob("*.log"))}

    async def certificate(self, migration_id: MigrationId, operation_id: str) -> dict[str, object]:
        return to_document(await find(self._about(migration_id), operation_id))

    async def keep_certificates(self, migration_id: MigrationId, *, force: bool) -> None:
        about = self._about(migration_id)
        async with connected(about, "clean up") as (session, _):
            await keep(about, session, migration_id.value, force=force)

    def _about(self, migration_id: MigrationId) -> Invocation:
        return replace(self._invocation, migration_id=migration_id)

    def _directory(self, migration_id: MigrationId) -> MigrationDir:
        return MigrationDir(self._invocation.state_dir, migration_id)
