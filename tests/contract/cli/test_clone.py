"""`clone` and `follow`: options that reach the coordinator, questions before the start, and the end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import cast

import pytest

from clients.cli.commands import clone as command
from clients.cli.options import Invocation
from clients.cli.output import Output
from clients.embedded.local_state import MigrationDir, OfflineView
from services.shared.model import (
    ErrorKind,
    Failure,
    MigrationOptions,
    MigrationPlan,
    MigrationView,
    NoKeyTables,
    Operation,
    OperationState,
    Phase,
    Selection,
)
from services.shared.model.conflicts.policy import OnConflict
from tests.fakes.thread import ServedControl
from tests.support.clients.commands import URIS, at, put

NO_KEY = ("--no-key-tables", "insert-only", "--strict-boundaries")
MEMORY = ("--maintenance-work-mem", "1.5GB")
COPYING = ("--split-tables-larger-than", "1.5 MB", "--max-rate", "64kB")


def test_clone_hands_over_what_is_to_be_copied(served: ServedControl) -> None:
    served.control.started = lambda view: served.control.move(view.migration_id, Phase.COMPLETE)
    patterns = ("--exclude-table", "a", "--exclude-table", '"B".c', "--exclude-table-data", "d")
    result = at(served, "clone", *URIS, *patterns, "--include-schema", "e", "--exclude-schema", "f*")
    assert result.exit_code == 0, result.stderr
    (call,) = [call for call in served.control.calls if call[0] == "start"]
    assert call[4].selection == Selection((), ("a", '"B".c'), ("d",), ("e",), ("f*",))
    assert all(call[0] != "plan" for call in served.control.calls)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--schema-only", "--follow"),
        ("--schema-only", "--data-only"),
        ("--data-only", "--drop-if-exists"),
        ("--include-table", "a", "--include-schema", "b"),
        ("--include-table", "a.b.c"),
        ("--bidirectional",),
        ("--on-conflict", "keep-local", "--follow"),
        ("--sequence-stride", "--follow"),
        ("--no-guard-destination", "--follow", "--bidirectional"),
        ("--no-key-tables", "copy-only", "--follow", "--bidirectional"),
        ("--confirm-after-standby", "--follow", "--bidirectional"),
        ("--exclude-schema", '"a'),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(
    served: ServedControl, arguments: tuple[str, ...]
) -> None:
    result = at(served, "clone", *URIS, *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr
    assert served.control.calls == []


@pytest.mark.parametrize("option", ["--data-only", "--drop-if-exists"])
def test_what_would_be_lost_is_listed_and_needs_a_yes(served: ServedControl, option: str) -> None:
    served.control.started = lambda view: served.control.move(view.migration_id, Phase.COMPLETE)
    names = tuple(f"app.t{number}" for number in range(300))
    served.control.planned = MigrationPlan(("view app.v",), names, "token")
    refused = at(served, "clone", *URIS, option)
    assert refused.exit_code == 3
    assert "--yes" in refused.stderr
    assert all(call[0] != "start" for call in served.control.calls)
    agreed = at(served, "clone", *URIS, option, "--yes")
    assert agreed.exit_code == 0, agreed.stderr
    for result in (refused, agreed):
        assert "  view app.v\n" in result.stderr
        assert all(f"  table {name}\n" in result.stderr for name in names)
    (call,) = [call for call in served.control.calls if call[0] == "start"]
    assert call[4].confirmed == "token"


def test_what_both_sides_need_is_handed_over(served: ServedControl) -> None:
    served.control.started = lambda view: served.control.move(view.migration_id, Phase.COMPLETE)
    given = ("--follow", "--bidirectional", "--on-conflict", "last-update-wins", "--sequence-stride")
    assert at(served, "clone", *URIS, *given).exit_code == 0
    (call,) = [call for call in served.control.calls if call[0] == "start"]
    options = call[4]
    assert (options.bidirectional, options.sequence_stride) == (True, True)
    assert options.on_conflict is OnConflict.LAST_UPDATE_WINS


def test_everything_that_does_not_fit_is_listed(served: ServedControl) -> None:
    misfits = tuple(f"table app.t{number} is not there" for number in range(300))
    served.control.planned = MigrationPlan(misfits=misfits)
    refused = at(served, "clone", *URIS, "--data-only", "--yes")
    assert refused.exit_code == 3
    assert all(f"  {line}\n" in refused.stderr for line in misfits)
    assert all(call[0] != "start" for call in served.control.calls)


def test_clone_ends_when_complete_with_a_summary(served: ServedControl) -> None:
    served.control.started = lambda view: served.control.move(view.migration_id, Phase.COMPLETE)
    given = ("--copy-workers", "3", *NO_KEY, *MEMORY, *COPYING)
    result = at(served, "clone", *URIS, "--id", "x", *given)
    assert result.exit_code == 0
    assert result.stdout.startswith("complete  migration x")
    assert "phase complete" in result.stderr
    assert "hush" not in result.output
    options = MigrationOptions(
        follow=False,
        copy_workers=3,
        index_workers=2,
        no_key_tables=NoKeyTables.INSERT_ONLY,
        strict_boundaries=True,
        maintenance_work_mem_kb=3 << 19,
        split_tables_larger_than=3 << 19,
        max_rate=64 << 10,
    )
    assert ("start", "x", URIS[1], URIS[3], options) in served.control.calls


@pytest.mark.parametrize("size", ["64", "512kB", "many", "3TB"])
def test_memory_that_is_none_is_refused(served: ServedControl, size: str) -> None:
    result = at(served, "clone", *URIS, "--maintenance-work-mem", size)
    assert result.exit_code == 2
    assert "not a size like 512MB" in result.stderr


def test_clone_of_a_migration_that_fails_ends_with_its_cause(served: ServedControl) -> None:
    failure = Failure(ErrorKind.COPY_FAILED, "table public.t: disk full", "make room")

    def fail(view: MigrationView) -> None:
        served.control.move(view.migration_id, Phase.FAILED, failure=failure, resume_phase=Phase.COPY)

    served.control.started = fail
    result = at(served, "clone", *URIS, "--follow", "--output", "json")
    assert result.exit_code == 5
    assert json.loads(result.stdout.splitlines()[-1])["failure"]["message"] == "table public.t: disk full"
    assert "error: migration default failed: table public.t: disk full" in result.stderr
    assert "hint: make room" in result.stderr


def test_clone_resume_continues_what_is_there_and_starts_what_is_not(served: ServedControl) -> None:
    served.control.started = lambda view: served.control.move(view.migration_id, Phase.COMPLETE)
    put(served, "x", Phase.PAUSED)
    assert at(served, "clone", *URIS, "--id", "x", "--resume").exit_code == 0
    assert at(served, "clone", *URIS, "--id", "y", "--resume").exit_code == 0
    calls = [call[:2] for call in served.control.calls if call[0] in {"start", "resume"}]
    assert calls == [("resume", "x"), ("start", "y")]


def test_restarted_coordinator_gets_its_credentials_back(served: ServedControl) -> None:
    def forget(view: MigrationView) -> None:
        served.control.move(view.migration_id, Phase.COPY, needs_credentials=True)
        served.control.started = lambda view: served.control.move(view.migration_id, Phase.COMPLETE)

    served.control.started = forget
    assert at(served, "clone", *URIS).exit_code == 0
    assert ("resume", "default", URIS[1], URIS[3]) in served.control.calls


def test_follow_resumes_what_waits_and_watch_does_not(served: ServedControl) -> None:
    served.control.started = lambda view: served.control.move(view.migration_id, Phase.COMPLETE)
    put(served, "m", Phase.FAILED)
    assert at(served, "watch").exit_code == 5
    assert not [call for call in served.control.calls if call[0] == "resume"]
    assert at(served, "follow").exit_code == 0


def test_clone_ends_after_the_operation_that_switched_over(served: ServedControl) -> None:
    """Until then the coordinator stops the workers, which a local `clone` would stop at the same time."""
    running = Operation("m-1", "default", "r", state=OperationState.RUNNING)

    def decided(view: MigrationView) -> None:
        served.control.move(view.migration_id, Phase.SWITCHED_OVER, operation=running)

    served.control.started = decided
    ended = replace(running, state=OperationState.SUCCEEDED)
    timer = Timer(
        1.0, lambda: served.do(lambda: served.control.move("default", Phase.SWITCHED_OVER, operation=ended))
    )
    timer.start()
    result = at(served, "clone", *URIS, "--follow", "-o", "json")
    timer.join()
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["operation"]["state"] == "succeeded"


@pytest.mark.parametrize("state", [OperationState.RUNNING, OperationState.SUCCEEDED])
def test_follow_finishes_a_switchover_that_is_decided(state: OperationState) -> None:
    """A coordinator must run until the destination accepts writes."""
    operation = Operation("m-1", "m", "r", state=state)
    view = MigrationView("m", Phase.SWITCHED_OVER, operation=operation)
    invocation = Invocation(None, None, Path(), Output.TABLE)
    directory = cast(MigrationDir, Recorded(view))
    assert command._ended_already(invocation, directory) is state.ended


class Recorded:
    """The state directory of a migration that no process runs."""

    def __init__(self, view: MigrationView) -> None:
        self._view = view

    def offline_view(self) -> OfflineView:
        return OfflineView(self._view, 1.0)
