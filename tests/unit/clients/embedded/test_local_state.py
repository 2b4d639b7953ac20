"""The state directory: stacks that run, stale files, locks, the coordinator's last word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clients.embedded.local_state import MigrationDir, RunningStack, known_migrations, process_start
from services.shared.model import ErrorKind, MigrationId, MigrationView, PgmigError, Phase
from services.shared.model.view.jsonview import to_json, view_to_json


def directory(root: Path, name: str = "m") -> MigrationDir:
    made = MigrationDir(root, MigrationId.parse(name))
    made.create()
    return made


def write_state(place: MigrationDir, view: MigrationView) -> None:
    place.state_file.write_text(json.dumps({"view": view_to_json(view), "other": 1}), encoding="utf-8")


def test_stack_of_a_living_process_is_found(tmp_path: Path) -> None:
    place = directory(tmp_path)
    place.write_stack("127.0.0.1:7")
    stack = place.running_stack()
    assert stack is not None
    assert (stack.coordinator, stack.pid, stack.migration_id) == ("127.0.0.1:7", os.getpid(), "m")
    place.remove_stack()
    assert place.running_stack() is None


def test_stack_of_a_dead_process_counts_as_absent(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_start(child.pid)
    assert started is not None
    place = directory(tmp_path)
    stack = RunningStack("m", child.pid, started, "127.0.0.1:7")
    place.stack_file.write_text(json.dumps(to_json(stack)))
    assert place.running_stack() == stack
    child.kill()
    child.communicate()
    assert place.running_stack() is None


def test_stack_of_another_process_with_the_same_number_counts_as_absent(tmp_path: Path) -> None:
    place = directory(tmp_path)
    stack = RunningStack("m", os.getpid(), "1", "127.0.0.1:7")
    place.stack_file.write_text(json.dumps(to_json(stack)))
    assert place.running_stack() is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"migration_id": "m"}', "\x00\xff"])
def test_damaged_stack_file_counts_as_absent(tmp_path: Path, content: str) -> None:
    place = directory(tmp_path)
    place.stack_file.write_text(content, encoding="utf-8")
    assert place.running_stack() is None


def test_offline_view_is_what_the_coordinator_wrote(tmp_path: Path) -> None:
    place = directory(tmp_path)
    assert place.offline_view() is None
    view = MigrationView("m", Phase.STREAMING, revision=3)
    write_state(place, view)
    offline = place.offline_view()
    assert offline is not None
    assert offline.view == view
    assert offline.written_at == place.state_file.stat().st_mtime


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"view": {"phase": "nowhere"}}', b"\xff\xfe"])
def test_damaged_state_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    place = directory(tmp_path)
    place.state_file.write_bytes(content)
    with pytest.raises(PgmigError) as caught:
        place.offline_view()
    assert caught.value.kind is ErrorKind.CORRUPT
    assert str(place.state_file) in caught.value.message


def test_known_are_those_with_a_state_file_or_a_running_stack(tmp_path: Path) -> None:
    assert known_migrations(tmp_path / "absent") == []
    write_state(directory(tmp_path, "with_state"), MigrationView("with_state", Phase.COPY))
    directory(tmp_path, "running").write_stack("127.0.0.1:7")
    directory(tmp_path, "nothing")
    (tmp_path / "Not An Id").mkdir()
    assert [place.migration_id.value for place in known_migrations(tmp_path)] == ["running", "with_state"]


def test_scope_shows_one_migration_at_its_usual_place(tmp_path: Path) -> None:
    write_state(directory(tmp_path, "a"), MigrationView("a", Phase.COPY))
    write_state(directory(tmp_path, "b"), MigrationView("b", Phase.COPY))
    scope = directory(tmp_path, "a").scope_dir
    assert [path.parent.name for path in scope.glob("*/state.json")] == ["a"]


def test_forget_removes_only_this_migration(tmp_path: Path) -> None:
    write_state(directory(tmp_path, "a"), MigrationView("a", Phase.COPY))
    write_state(directory(tmp_path, "b"), MigrationView("b", Phase.COPY))
    directory(tmp_path, "a").forget()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_state_directory_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PgmigError) as caught:
        directory(tmp_path / "file")
    assert "--state-dir" in caught.value.hint


def test_process_start_of_nobody_is_none() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert process_start(child.pid) is None
    assert process_start(os.getpid())
