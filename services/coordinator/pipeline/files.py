"""The files of a migration in the state directory."""

from __future__ import annotations

from pathlib import Path

from services.coordinator.migration.state_file import ARCHIVE, folder, remove_state


class Files:
    """The files of one migration."""

    def __init__(self, state_dir: Path, migration_id: str) -> None:
        self._state_dir = state_dir
        self._migration_id = migration_id

    @property
    def archive(self) -> Path:
        """Path of the schema's archive, which is kept until the indexes are built."""
        return folder(self._state_dir, self._migration_id) / ARCHIVE

    def remove(self) -> list[str]:
        """Remove the files that pgmig wrote. Returns a line for each file."""
        return remove_state(self._state_dir, self._migration_id)
