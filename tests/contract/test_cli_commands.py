"""Every command against a real gRPC server whose migrations the test makes up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from clients.__main__ import open_dashboard
from clients.cli.app import cli
from services.shared.model import (
    ErrorKind,
    Event,
    EventLevel,
    Failure,
    Lsn,
    MigrationOptions,
    MigrationPlan,
    MigrationView,
    NoKeyTables,
    PgmigError,
    Phase,
    Selection,
    TableId,
    failure_event,
)
from services.shared.model.view.jsonview import view_from_json, view_to_json
from tests.fakes.thread import ServedControl, served_control
from tests.support.servers.process import free_port

NO_KEY = ("--no-key-tables", "insert-only", "--strict-boundaries")
MEMORY = ("--maintenance-work-mem", "1.5GB")
COPYING = ("--split-tables-larger-than", "1.5 MB", "--max-rate", "64kB")
URIS = ("--source-uri", "postgresql://a:hush@h/s", "--dest-uri", "postgresql://b:hush@h/d")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, state_dir: Path) -> None:
    for name in ("SOURCE_URI", "DEST_URI", "COORDINATOR", "ID"):
        monkeypatch.delenv(f"PGMIG_{name}", raising=False)
    monkeypatch.setenv("PGMIG_STATE_DIR", str(state_dir))


@pytest.fixture
def served() -> Iterator[ServedControl]:
    with served_control() as served:
        yield served


def pgmig(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), prog_name="pgmig-cli", obj=open_dashboard)


def put(served: ServedControl, migration_id: str = "m", phase: Phase = Phase.STREAMING) -> MigrationView:
    return served.do(lambda: served.control.put(MigrationView(migration_id, phase)))


def at(served: ServedControl, *arguments: str) -> Result:
    return pgmig(*arguments, "--coordinator", served.address)


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


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


def test_everything_that_does_not_fit_is_listed(served: ServedControl) -> None:
    misfits = tuple(f"table app.t{number} is not there" for number in range(300))
    served.control.planned = MigrationPlan(misfits=misfits)
    refused = at(served, "clone", *URIS, "--data-only", "--yes")
    assert refused.exit_code == 3
    assert all(f"  {line}\n" in refused.stderr for line in misfits)
    assert all(call[0] != "start" for call in served.control.calls)


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


def test_only_migration_is_chosen_and_several_need_an_id(served: ServedControl) -> None:
    nothing = at(served, "pause")
    assert nothing.exit_code == 7
    put(served, "a")
    assert at(served, "pause").exit_code == 0
    put(served, "b")
    several = at(served, "pause")
    assert several.exit_code == 2
    assert "several migrations are known" in several.stderr
    assert "a, b" in several.stderr
    assert at(served, "pause", "--id", "b").exit_code == 0
    calls = [call for call in served.control.calls if call[0] == "pause"]
    assert calls == [("pause", "a"), ("pause", "b")]


def test_pause_and_resume_tell_the_phase(served: ServedControl) -> None:
    put(served)
    assert at(served, "pause").stdout == "migration m is in phase paused\n"
    assert document(at(served, "resume", "-o", "json", *URIS))["phase"] == "streaming"
    assert ("resume", "m", URIS[1], URIS[3]) in served.control.calls
    assert at(served, "resume", "--skip-object", "view app.v", *URIS).exit_code == 0
    assert ("resume", "m", URIS[1], URIS[3], "view app.v") in served.control.calls


def test_resync_table_names_tables_with_their_schemas(served: ServedControl) -> None:
    put(served, phase=Phase.FAILED)
    result = at(served, "resync-table", "shop.orders", 'shop."a.b""c"')
    assert (result.exit_code, served.control.views["m"].phase) == (0, Phase.COPY)
    (call,) = [call for call in served.control.calls if call[0] == "resync_tables"]
    assert call[2] == (TableId("shop", "orders"), TableId("shop", 'a.b"c'))
    assert at(served, "resync-table", "orders").exit_code == 2
    assert at(served, "resync-table").exit_code == 2


def test_skip_transaction_says_who_and_why_and_status_keeps_it(served: ServedControl) -> None:
    put(served, phase=Phase.STREAMING)
    result = at(served, "skip-transaction", "--lsn", "16/B374D848", "--reason", "a row of the old app")
    assert result.stdout == "transaction at 16/B374D848 is skipped; migration m is in phase streaming\n"
    (call,) = [call for call in served.control.calls if call[0] == "skip_transaction"]
    assert call[:4] == ("skip_transaction", "m", Lsn.parse("16/B374D848"), "a row of the old app")
    assert "@" in call[4]
    shown = at(served, "status").stdout
    assert "transaction 742 at 16/B374D848" in shown
    assert "a row of the old app" in shown
    assert document(at(served, "status", "-o", "json"))["skipped"][0]["lsn"] == "16/B374D848"


@pytest.mark.parametrize(
    "arguments",
    [("--reason", "r"), ("--lsn", "1/2"), ("--lsn", "x", "--reason", "r"), ("--lsn", "1/2", "--reason", " ")],
)
def test_skip_transaction_needs_an_lsn_and_a_reason(
    served: ServedControl, arguments: tuple[str, ...]
) -> None:
    put(served)
    assert at(served, "skip-transaction", *arguments).exit_code == 2


def test_switchover_tells_steps_on_stderr_and_the_result_on_stdout(served: ServedControl) -> None:
    put(served)
    result = at(served, "switchover", "--timeout", "1500ms")
    assert result.exit_code == 0
    assert result.stdout.startswith("switched over: writes were blocked for 412ms, 3 sequences set")
    assert len(result.stderr.splitlines()) == 7
    assert ("switchover", "m", 1.5) in served.control.calls


def test_unfreeze_lets_writers_in_or_only_readers(served: ServedControl) -> None:
    put(served, phase=Phase.SWITCHED_OVER)
    assert at(served, "unfreeze").stdout == "the old source of migration m accepts connections again\n"
    assert at(served, "unfreeze", "--read-only").exit_code == 0
    calls = [call for call in served.control.calls if call[0] == "unfreeze"]
    assert calls == [("unfreeze", "m", False, None, None), ("unfreeze", "m", True, None, None)]


GIVEN = {
    "clone": (),
    "follow": (),
    "resume": (),
    "skip-transaction": ("--lsn", "1/2", "--reason", "r"),
    "resync-table": ("shop.orders",),
    "unfreeze": (),
    "abort": (),
    "cleanup": ("--force",),
}
"""What each command needs besides connection strings."""


def test_every_command_that_takes_connection_strings_is_known_here() -> None:
    context = click.Context(cli)
    commands = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    taking = {name for name, one in commands.items() if one and "source_uri" in {p.name for p in one.params}}
    assert taking == set(GIVEN)


@pytest.mark.parametrize("command", sorted(GIVEN))
def test_connection_strings_that_a_command_takes_reach_a_remote_coordinator(
    served: ServedControl, command: str
) -> None:
    if command != "clone":
        put(served, phase=Phase.FAILED)
    served.control.started = lambda view: served.control.move(view.migration_id, Phase.COMPLETE)
    at(served, command, *GIVEN[command], *URIS)
    assert any({URIS[1], URIS[3]} <= set(map(str, call)) for call in served.control.calls)


def test_switchover_as_json_is_one_step_a_line(served: ServedControl) -> None:
    put(served)
    steps = [json.loads(line) for line in at(served, "switchover", "-o", "json").stdout.splitlines()]
    assert [step["name"] for step in steps][-1] == "commit"
    assert steps[-1]["result"]["sentinel_lsn"] == "0/16B374D8"


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


def test_coordinator_lost_during_a_switchover_is_told_as_that(served: ServedControl) -> None:
    put(served)
    lost = PgmigError(ErrorKind.UNREACHABLE, "it is gone", "check the address")
    served.control.errors["switchover, freeze is done"] = lost
    result = at(served, "switchover")
    assert result.exit_code == 4
    *_, error, hint = result.stderr.splitlines()
    assert error == "error: the coordinator was lost during the switchover: it is gone"
    assert "pgmig-cli status" in hint
    assert "writes to the source may stay blocked" in hint


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


def test_aborted_migration_ends_a_watch_with_an_error(served: ServedControl) -> None:
    put(served, phase=Phase.ABORTED)
    result = at(served, "watch")
    assert result.exit_code == 5
    assert "was aborted" in result.stderr


def test_abort_and_cleanup_tell_what_they_did(served: ServedControl) -> None:
    put(served)
    refused = at(served, "cleanup")
    assert refused.exit_code == 8
    assert at(served, "abort").stdout == "migration m is in phase aborted\n"
    result = at(served, "cleanup")
    assert result.stdout == "removed replication slot pgmig_m\nremoved publication pgmig_m\n"
    put(served)
    assert "publication pgmig_m" in document(at(served, "cleanup", "--force", "-o", "json"))["removed"]


def test_cleanup_that_leaves_something_behind_says_so_with_its_exit_code(served: ServedControl) -> None:
    put(served)
    served.control.left = ("replication slot pgmig_m on the source: cannot connect",)
    result = at(served, "cleanup", "--force")
    assert result.exit_code == 9
    assert result.stdout == "removed replication slot pgmig_m\nremoved publication pgmig_m\n"
    assert "not removed: replication slot pgmig_m on the source: cannot connect" in result.stderr
    put(served)
    result = at(served, "cleanup", "--force", "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["left"]) == (9, list(served.control.left))


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


def test_defect_is_told_without_a_traceback(monkeypatch: pytest.MonkeyPatch, served: ServedControl) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("clients.cli.commands.status.list_rows", broken)
    put(served)
    result = at(served, "list")
    assert result.exit_code == 1
    assert "error: unexpected ZeroDivisionError: by nothing" in result.stderr
    assert "PGMIG_DEBUG" in result.stderr


def test_tui_without_a_terminal_is_a_usage_error(
    served: ServedControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.tui.run", lambda *_: 0)
    put(served)
    result = at(served, "tui")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "needs a terminal" in result.stderr


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
