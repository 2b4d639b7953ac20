"""Servers whose data need not outlive the machine are kept in memory, and leave nothing there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import folders
from tests.support.servers.folders import scratch_dir
from tests.support.servers.postgres import PostgresServer


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the file system in memory, with enough room."""
    monkeypatch.setattr(folders, "_MEMORY", tmp_path)
    monkeypatch.setattr(folders, "_ROOM_BYTES", 0)
    folders._remove_abandoned.cache_clear()
    return tmp_path


def test_only_folders_for_memory_are_made_there(memory: Path) -> None:
    assert scratch_dir("pgmig-pg-", None, in_memory=True).parent == memory
    elsewhere = scratch_dir("pgmig-pg-", None)
    elsewhere.rmdir()
    assert elsewhere.parent != memory


def test_without_room_in_memory_a_folder_is_made_on_disk(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_ROOM_BYTES", 1 << 62)
    elsewhere = scratch_dir("pgmig-pg-", None, in_memory=True)
    elsewhere.rmdir()
    assert elsewhere.parent != memory


def test_folders_of_ended_processes_are_removed(memory: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    abandoned, used = (memory / f"pgmig-pg-{pid}-x" for pid in (ended.pid, os.getppid()))
    for folder in (abandoned, used):
        (folder / "data").mkdir(parents=True)
    scratch_dir("pgmig-pg-", None, in_memory=True)
    assert not abandoned.exists()
    assert used.exists()


def test_data_that_must_outlive_the_machine_stays_on_disk(source_server: PostgresServer) -> None:
    with PostgresServer() as durable:
        assert not durable.root.is_relative_to(folders._MEMORY)
    if folders._has_room(folders._MEMORY):
        assert source_server.root.is_relative_to(folders._MEMORY)
