"""`status`, `list`, `watch` and `tui`: what they show, of a running coordinator and of the state file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.shared.model import (
    ErrorKind,
    Event,
    EventLevel,
    Failure,
    Lsn,
    MigrationView,
    Phase,
    Readiness,
    Reason,
    ReasonCode,
    failure_event,
)
from services.shared.model.view.jsonview import view_from_json, view_to_json
from tests.fakes.thread import ServedControl
from tests.support.clients.commands import at, document, pgmig, put


def test_status_and_list_as_json_are_one_document_that_reads_back(served: ServedControl) -> None:
    view = put(served)
    told = document(at(served, "status", "-o", "json"))
    assert told["live"] is True
    assert view_from_json(told) == view
    assert [view_from_json(entry) for entry in document(at(served, "list", "-o", "json"))] == [view]


def test_list_as_a_table_has_a_line_for_each(served: ServedControl) -> None:
    assert at(served, "list").stderr == "no migrations\n"
    put(served, "a")
    put(served, "b", Phase.PAUSED)
    lines = at(served, "list").stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["ID", "PHASE", "RUNNING"],
        ["a", "streaming", "yes"],
        ["b", "paused", "yes"],
    ]


@pytest.mark.parametrize("command", ["watch", "status"])
def test_a_failure_is_printed_once(served: ServedControl, command: str) -> None:
    failure = Failure(ErrorKind.GAP, "changes are missing", "clean up", Lsn(0x16B374D8), 742)
    served.do(
        lambda: served.control.put(
            MigrationView(
                "m",
                Phase.FAILED,
                failure=failure,
                events=(
                    Event(1.0, EventLevel.INFO, "begun"),
                    Event(2.0, EventLevel.ERROR, failure_event(failure)),
                ),
            )
        )
    )
    result = at(served, command)
    assert result.output.count("changes are missing") == 1
    assert result.output.count("begun") == 1


WAITS = Reason(ReasonCode.PREPARED_TRANSACTIONS, True, "there is one", "end it")
WARNS = Reason(ReasonCode.SEQUENCES_NEAR_END, False, "few are left", "enlarge it")


@pytest.mark.parametrize(
    ("readiness", "lines"),
    [
        (Readiness(True), ["Can switch yes"]),
        (Readiness(True, (WARNS,)), ["Can switch yes, with 1 warning", "⚠ few are left", "→ enlarge it"]),
        (
            Readiness(False, (WAITS, WARNS)),
            ["Can switch no", "✘ there is one", "→ end it", "⚠ few are left", "→ enlarge it"],
        ),
    ],
)
def test_status_says_whether_the_migration_can_be_switched_over_and_why_not(
    served: ServedControl, readiness: Readiness, lines: list[str]
) -> None:
    view = MigrationView("m", Phase.STREAMING, readiness=readiness)
    served.do(lambda: served.control.put(view))
    shown = [" ".join(line.split()) for line in at(served, "status").stdout.splitlines()]
    first = shown.index(lines[0])
    assert shown[first : first + len(lines)] == lines
    told = document(at(served, "status", "-o", "json"))["readiness"]
    assert told["can_switch"] is readiness.can_switch
    assert [reason["code"] for reason in told["reasons"]] == [one.code.value for one in readiness.reasons]


def test_aborted_migration_ends_a_watch_with_an_error(served: ServedControl) -> None:
    put(served, phase=Phase.ABORTED)
    result = at(served, "watch")
    assert result.exit_code == 5
    assert "was aborted" in result.stderr


def test_nothing_known_here_says_how_to_begin(state_dir: Path) -> None:
    result = pgmig("status")
    assert result.exit_code == 7
    assert f"no migration is known in {state_dir}" in result.stderr
    assert "pgmig-cli clone" in result.stderr
    assert pgmig("follow", "--id", "x").exit_code == 7


def test_status_offline_reads_the_state_file(state_dir: Path) -> None:
    view = MigrationView("m", Phase.STREAMING, events=(Event(1.0, EventLevel.INFO, "hello"),))
    (state_dir / "m").mkdir()
    (state_dir / "m" / "state.json").write_text(json.dumps({"view": view_to_json(view)}))
    told = document(pgmig("status", "-o", "json"))
    assert told["live"] is False
    assert view_from_json(told) == view
    assert "this is from" in pgmig("status").stdout
    assert "streaming" in pgmig("list").stdout


def test_tui_without_a_terminal_is_a_usage_error(
    served: ServedControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.tui.run", lambda *_: 0)
    put(served)
    result = at(served, "tui")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "needs a terminal" in result.stderr


def test_tui_is_given_the_address_and_its_exit_code_is_ours(
    monkeypatch: pytest.MonkeyPatch, served: ServedControl
) -> None:
    opened: list[tuple[str, str]] = []

    def run(address: str, migration_id: str) -> int:
        opened.append((address, migration_id))
        return 3

    monkeypatch.setattr("clients.tui.run", run)
    monkeypatch.setattr("clients.cli.commands.watch.has_terminal", lambda: True)
    put(served)
    assert at(served, "tui").exit_code == 3
    assert opened == [(served.address, "m")]
