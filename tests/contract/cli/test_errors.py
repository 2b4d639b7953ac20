"""Refusals, wrong usage and defects: exit code, error and hint on stderr, no connection string anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.shared.model import ErrorKind, MigrationView, PgmigError, Phase
from services.shared.model.view.jsonview import view_to_json
from tests.fakes.thread import ServedControl
from tests.support.clients.commands import at, pgmig, put
from tests.support.servers.process import free_port


@pytest.mark.parametrize(
    ("kind", "code"), [(ErrorKind.TIMEOUT, 6), (ErrorKind.SWITCHOVER_FAILED, 5), (ErrorKind.WRONG_PHASE, 8)]
)
def test_refusals_become_error_hint_and_exit_code(served: ServedControl, kind: ErrorKind, code: int) -> None:
    put(served)
    served.control.errors["switchover"] = PgmigError(kind, "it went wrong", "do it again")
    result = at(served, "switchover")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == "error: it went wrong\nhint: do it again\n"


def test_missing_connection_strings_are_a_usage_error_that_names_them() -> None:
    result = pgmig("clone", "--source-uri", "postgresql://a:hush@h/s")
    assert result.exit_code == 2
    assert "error: --dest-uri missing" in result.stderr
    assert "PGMIG_DEST_URI" in result.stderr
    assert "hush" not in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("status", "--id", "Not-Valid"), "migration id 'Not-Valid' is not valid"),
        (("status", "--coordinator", "nowhere"), "not an address of the form HOST:PORT"),
        (("switchover", "--timeout", "soon"), "not a duration"),
        (("switchover", "--timeout", "0s"), "must be more than 0"),
        (("status", "--output", "xml"), "xml"),
        (("clone", "--copy-workers", "0"), "0"),
        (("clone", "--no-key-tables", "ignore"), "ignore"),
        (("clone", "--max-rate", "fast"), "not a size"),
        (("clone", "--split-tables-larger-than", "0GB"), "not a size"),
    ],
)
def test_invalid_options_are_usage_errors(arguments: tuple[str, ...], told: str) -> None:
    result = pgmig(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stdout == ""


def test_unreachable_coordinator_has_its_own_exit_code() -> None:
    result = pgmig("list", "--coordinator", f"127.0.0.1:{free_port()}")
    assert result.exit_code == 4
    assert "cannot reach the coordinator" in result.stderr


@pytest.mark.parametrize("command", ["pause", "resume", "switchover", "watch", "tui"])
def test_commands_that_need_a_running_stack_say_what_to_do(state_dir: Path, command: str) -> None:
    view = MigrationView("m", Phase.STREAMING)
    (state_dir / "m").mkdir()
    (state_dir / "m" / "state.json").write_text(json.dumps({"view": view_to_json(view)}))
    result = pgmig(command)
    assert result.exit_code == 4
    assert "no process runs for it on this machine" in result.stderr
    assert "pgmig-cli follow --id m" in result.stderr


@pytest.mark.parametrize("command", ["abort", "cleanup"])
def test_ending_without_a_stack_needs_connection_strings(state_dir: Path, command: str) -> None:
    view = MigrationView("m", Phase.STREAMING)
    (state_dir / "m").mkdir()
    (state_dir / "m" / "state.json").write_text(json.dumps({"view": view_to_json(view)}))
    result = pgmig(command)
    assert result.exit_code == 2
    assert "--source-uri and --dest-uri missing" in result.stderr


def test_defect_is_one_line_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, served: ServedControl
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("clients.cli.commands.status.list_rows", broken)
    put(served)
    result = at(served, "list")
    assert result.exit_code == 1
    assert "error: unexpected ZeroDivisionError: by nothing" in result.stderr
    assert "PGMIG_DEBUG" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("clone", "postgresql://app:hush@old/app"),
        ("clone", "--source-uri", "postgresql://app:ab", "hush@old/app"),
        ("postgresql://app:hush@old/app",),
        ("clone", "--id", "postgresql://app:hush@old/app"),
        ("clone", "--coordinator", "postgresql://app:hu'sh\\@old/app"),
        ("--source-uri=postgresql://app:hush@old/app", "clone"),
        ("clone", "--output=postgresql://app:hush@old/app"),
    ],
)
def test_stray_connection_string_is_never_repeated(arguments: tuple[str, ...]) -> None:
    result = pgmig(*arguments)
    assert result.exit_code == 2
    assert "Error" in result.stderr or "error" in result.stderr
    assert "hush" not in result.output
    assert "hu'sh" not in result.output
