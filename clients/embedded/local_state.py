"""The state directory: what this machine knows of migrations when nothing runs.

    STATE_DIR/<id>/state.json   written by the coordinator: the migration's record and its view
    STATE_DIR/<id>/stack.json   written by the CLI that runs an embedded stack: how to connect to it
    STATE_DIR/<id>/coordinator.sock   where its coordinator listens, if the path is short enough
    STATE_DIR/<id>/stack.lock   locked while any process of that stack lives
    STATE_DIR/<id>/nats/        configuration and JetStream store of the embedded nats-server
    STATE_DIR/<id>/log/         one log per child process, and stack.log of their supervisor
    STATE_DIR/<id>/scope/       the state directory of the embedded coordinator. It contains only <id>,
                                a link to here, because the coordinator continues every migration in it

Only the owner can read it. A stack.json whose process has ended is treated as missing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from services.shared.model import ErrorKind, MigrationId, MigrationView, PgmigError
from services.shared.model.view.certificate import StoredCertificate
from services.shared.model.view.jsonview import from_json, to_json, view_from_json
from services.shared.runtime.files import private_directory, replace_file


@dataclass(frozen=True, slots=True)
class RunningStack:
    """An embedded stack. started: start time of process `pid`, from `process_start`."""

    migration_id: str
    pid: int
    started: str
    coordinator: str


@dataclass(frozen=True, slots=True)
class OfflineView:
    """The coordinator's last recorded view. written_at: Unix seconds."""

    view: MigrationView
    written_at: float


def process_start(pid: int) -> str | None:
    """When process `pid` began, in clock ticks since boot (proc(5), field 22 of stat); "" if
    there is no /proc; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return _start_without_proc(pid)
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _start_without_proc(pid: int) -> str | None:
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def _refuse_shared(root: Path) -> None:
    """If others may rename our files, they could replace them with their own. Raises OSError."""
    mode = root.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise OSError(errno.EPERM, "every user may write to the directory above it")


@dataclass(frozen=True, slots=True)
class MigrationDir:
    """STATE_DIR/<id>."""

    root: Path
    migration_id: MigrationId

    @property
    def path(self) -> Path:
        return self.root / self.migration_id.value

    @property
    def state_file(self) -> Path:
        return self.path / "state.json"

    @property
    def stack_file(self) -> Path:
        return self.path / "stack.json"

    @property
    def lock_file(self) -> Path:
        return self.path / "stack.lock"

    @property
    def nats_dir(self) -> Path:
        return self.path / "nats"

    @property
    def log_dir(self) -> Path:
        return self.path / "log"

    @property
    def scope_dir(self) -> Path:
        return self.path / "scope"

    def create(self) -> None:
        """Raises PgmigError(INVALID_ARGUMENT) if the directories cannot be created."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_shared(self.root)
            for directory in (self.path, self.log_dir, self.scope_dir):
                private_directory(directory)
            link = self.scope_dir / self.migration_id.value
            if not link.is_symlink():
                link.symlink_to("..", target_is_directory=True)
        except OSError as exc:
            raise self.unusable(exc) from exc

    def unusable(self, exc: OSError) -> PgmigError:
        """The error that nothing can be stored here."""
        return PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"cannot use the state directory {self.path}: {exc.strerror}",
            "choose another with --state-dir or PGMIG_STATE_DIR",
        )

    def write_stack(self, coordinator: str) -> None:
        """Record the coordinator of this process, so that other terminals find it."""
        pid = os.getpid()
        stack = RunningStack(self.migration_id.value, pid, process_start(pid) or "", coordinator)
        replace_file(self.stack_file, json.dumps(to_json(stack)))

    def remove_stack(self) -> None:
        self.stack_file.unlink(missing_ok=True)

    def running_stack(self) -> RunningStack | None:
        """The stack that runs now, if its process is still the one that wrote the file."""
        stack = self.recorded_stack()
        return stack if stack is not None and process_start(stack.pid) == stack.started else None

    def recorded_stack(self) -> RunningStack | None:
        """The stack that runs or was killed."""
        try:
            obj = json.loads(self.stack_file.read_text(encoding="utf-8"))
            return from_json(RunningStack, obj, str(self.stack_file))
        except (OSError, ValueError):
            return None

    def certificates(self) -> tuple[StoredCertificate, ...]:
        """Those that the coordinator has recorded, the last one at the end. Raises PgmigError(CORRUPT) if the
        state file is unreadable."""
        state = self._state()
        record = state.get("record") if state is not None else None
        known = record.get("certificates", []) if isinstance(record, dict) else []
        try:
            return tuple(from_json(StoredCertificate, one, "certificate") for one in known)
        except (ValueError, TypeError) as exc:
            raise self._unreadable(str(exc)) from exc

    def _state(self) -> dict[str, object] | None:
        """The content of the state file, None if there is none. Raises PgmigError(CORRUPT)."""
        try:
            state = json.loads(self.state_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise self._unreadable(str(exc)) from exc
        if not isinstance(state, dict):
            raise self._unreadable("it is not an object")
        return state

    def offline_view(self) -> OfflineView | None:
        """None if there is no state file. Raises PgmigError(CORRUPT) if it is unreadable."""
        state = self._state()
        if state is None:
            return None
        try:
            written_at = self.state_file.stat().st_mtime
            view = view_from_json(state.get("view"))
        except (OSError, ValueError) as exc:
            raise self._unreadable(str(exc)) from exc
        return OfflineView(view, written_at)

    def _unreadable(self, why: str) -> PgmigError:
        return PgmigError(
            ErrorKind.CORRUPT,
            f"the state file {self.state_file} cannot be read: {why}",
            "the coordinator writes it again when it runs: `pgmig-cli follow`",
        )

    def forget(self) -> None:
        """Remove everything stored here about a migration that no longer exists."""
        shutil.rmtree(self.path, ignore_errors=True)


def known_migrations(root: Path) -> list[MigrationDir]:
    """The migrations with a state file or a running stack, by id."""
    if not root.is_dir():
        return []
    found = []
    for entry in sorted(root.iterdir()):
        with contextlib.suppress(PgmigError):
            directory = MigrationDir(root, MigrationId.parse(entry.name))
            if directory.state_file.is_file() or directory.running_stack() is not None:
                found.append(directory)
    return found
