"""Commands that change a migration: what reaches the coordinator, and what is printed."""

from __future__ import annotations

import json

import click
import pytest

from clients.cli.app import cli
from services.shared.model import Lsn, MigrationView, Phase, TableId
from tests.fakes.thread import ServedControl
from tests.support.clients.commands import URIS, at, document, put


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


def test_pause_and_resume_print_the_phase(served: ServedControl) -> None:
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


def test_switchover_prints_steps_on_stderr_and_the_result_on_stdout(served: ServedControl) -> None:
    put(served)
    result = at(served, "switchover", "--timeout", "1500ms")
    assert result.exit_code == 0
    assert result.stdout.startswith("switched over: writes were blocked for 412ms, 3 sequences set")
    assert len(result.stderr.splitlines()) == 7
    assert ("switchover", "m", 1.5) in served.control.calls


def test_unfreeze_opens_the_source_to_writers_or_only_to_readers(served: ServedControl) -> None:
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
    "finalize": (),
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


def test_abort_and_cleanup_print_what_they_did(served: ServedControl) -> None:
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


@pytest.mark.parametrize("command", [("abort",), ("cleanup",), ("cleanup", "--force")])
def test_what_could_not_be_removed_is_listed_with_an_exit_code_of_its_own(
    served: ServedControl, command: tuple[str, ...]
) -> None:
    left = ("slot pgmig_m on the source: it is down",)
    served.do(lambda: served.control.put(MigrationView("m", Phase.ABORTED, left=left)))
    served.control.left = left
    result = at(served, *command, "--yes")
    assert result.exit_code == 9
    assert f"not removed: {left[0]}" in result.stderr
    assert ("`pgmig-cli cleanup --id m`" in result.stderr) == ("--force" not in command)


def test_rollback_and_finalize_ask_for_what_they_say(served: ServedControl) -> None:
    put(served, phase=Phase.REVERSE)
    result = at(served, "rollback", "--timeout", "1500ms")
    assert result.exit_code == 0, result.stderr
    assert ("rollback", "m", 1.5) in served.control.calls
    assert at(served, "finalize", "--yes").stdout == "migration m is in phase switched-over\n"
    assert ("finalize", "m", None, None) in served.control.calls
