"""What a migration keeps in the state directory besides its state file."""

from __future__ import annotations

from pathlib import Path

from services.coordinator.migration.state_file import ARCHIVE, folder, remove_state


class Files:
    """Of one migration."""

    def __init__(self, state_dir: Path, migration_id: str) -> None:
        self._state_dir = state_dir
        self._migration_id = migration_id

    @property
    def archive(self) -> Path:
        """Where the schema's archive is kept until the indexes are done."""
        return folder(self._state_dir, self._migration_id) / ARCHIVE

    def remove(self) -> list[str]:
        """Remove what was written to the state directory; returns a line for each file."""
        return remove_state(self._state_dir, self._migration_id)
