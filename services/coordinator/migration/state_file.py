"""`STATE_DIR/<id>/state.json` contains the view of a migration, which `status` shows when no coordinator
runs, and its record, which a coordinator reads when the key-value store was lost."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from services.coordinator.migration.record import Record, record_from_json, record_to_json
from services.shared.model import MigrationView, PgmigError
from services.shared.model.view.jsonview import view_to_json
from services.shared.runtime.files import replace_file

log = logging.getLogger(__name__)

NAME = "state.json"
ARCHIVE = "schema.dump"
ARCHIVE_LIST = "schema.list"


def folder(state_dir: Path, migration_id: str) -> Path:
    return state_dir / migration_id


def state_file(state_dir: Path, migration_id: str) -> Path:
    return folder(state_dir, migration_id) / NAME


def write_state(state_dir: Path, record: Record, view: MigrationView) -> None:
    """Replace the file in one step, readable by its owner only. Raises OSError."""
    content = {"view": view_to_json(view), **record_to_json(record)}
    replace_file(state_file(state_dir, record.migration_id), json.dumps(content, separators=(",", ":")))


def read_states(state_dir: Path) -> Iterator[Record]:
    """Yield every record that can be read. Unreadable files are logged and not changed."""
    for path in sorted(state_dir.glob(f"*/{NAME}")):
        try:
            yield record_from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, PgmigError) as exc:
            log.error("state file %s is not usable: %s", path, exc)


def remove_state(state_dir: Path, migration_id: str) -> list[str]:
    """Remove the files that pgmig wrote for the migration. Other files, such as logs, are kept. Returns a
    line for each removed file."""
    place = folder(state_dir, migration_id)
    removed = []
    for name in (NAME, ARCHIVE, ARCHIVE_LIST):
        path = place / name
        if path.exists():
            path.unlink()
            removed.append(f"file {path}")
    if place.is_dir() and not any(place.iterdir()):
        shutil.rmtree(place, ignore_errors=True)
    return removed
