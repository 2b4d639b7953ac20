"""What a migration looks like: figures, hints, widths, and names that try to steer the terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from clients.cli.fragments import step_text
from clients.cli.progress import PlainLines
from clients.cli.screens import list_rows, live, plain_progress, status
from clients.presentation.history import History
from clients.presentation.sentences import next_command, workers_attached
from clients.presentation.tones import Tone
from services.shared.model import (
    Endpoint,
    ErrorKind,
    Event,
    EventLevel,
    Failure,
    IndexProgress,
    Lsn,
    MigrationOptions,
    MigrationView,
    Phase,
    Positions,
    Rates,
    Role,
    StepName,
    StepState,
    SwitchoverResult,
    SwitchoverStep,
    TableId,
    TableProgress,
    TableState,
    WorkerView,
)

NOW = 1_800_000_000.0
MIB = 1 << 20


def table(name: str, state: TableState, estimated: int, copied: int = 0) -> TableProgress:
    return TableProgress(TableId("public", name), state, 1000, 990, estimated, copied)


COPYING = MigrationView(
    "m",
    Phase.COPY,
    source=Endpoint("old", 5432, "shop", "app", 150004),
    destination=Endpoint("new", 5432, "shop", "app", 170002),
    options=MigrationOptions(follow=True),
    created_at=NOW - 3600,
    phase_since=NOW - 60,
    rates=Rates(0, 10 * MIB),
    tables=(
        table("orders", TableState.COPYING, 200 * MIB, 100 * MIB),
        table("customers", TableState.COPIED, 100 * MIB, 50 * MIB),
        table("waiting", TableState.WAITING, 100 * MIB),
    ),
    events=(Event(NOW - 60, EventLevel.INFO, "copying 3 tables"),),
    workers=(
        WorkerView("d", Role.DECODER, "h1"),
        WorkerView("c", Role.COPIER, "h1"),
        WorkerView("e", Role.COPIER, "h2"),
    ),
)
STREAMING = replace(
    COPYING,
    phase=Phase.STREAMING,
    indexes=IndexProgress(4, 4),
    positions=Positions(Lsn(500), Lsn(500), Lsn(400), Lsn(300), Lsn(300), 2048, 1.5),
    rates=Rates(1200, 0, 310, 123_456, 34_000),
)


def shown(what: RenderableType, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, markup=False)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


def status_text(view: MigrationView, width: int = 120, offline_since: float | None = None) -> str:
    return shown(status(view, NOW, width, offline_since=offline_since, all_tables=False), width)


def test_status_of_a_copy_shows_progress_rate_and_workers() -> None:
    text = status_text(COPYING)
    assert "old:5432/shop as app, PostgreSQL 15.4" in text
    assert "50.0%  1 of 3 tables  200 MiB of about 400 MiB, 10.0 MiB/s, about 20s left" in text
    assert "for 1m 00s, 1h 00m in all" in text
    assert "decoder, 2 copiers" in text
    assert "public.orders" in text
    assert "public.waiting" not in text
    assert "copying 3 tables" in text


def test_status_of_streaming_shows_lag_positions_and_the_next_command() -> None:
    text = status_text(STREAMING)
    assert "1.5s, 2.0 KiB" in text
    assert "1.2k rows/s, 310 transactions/s" in text
    assert "source 0/1F4" in text
    assert "pgmig-cli switchover --id m" in text


def test_offline_status_says_that_nothing_runs_and_measures_time_until_then() -> None:
    text = status_text(STREAMING, offline_since=NOW - 30)
    assert "no; this is from 30s ago" in text
    assert "for 30s" in text
    assert "pgmig-cli follow --id m" in text
    assert "copiers" not in text


def test_failure_is_shown_with_kind_place_and_hint() -> None:
    failure = Failure(
        ErrorKind.MISSING_ROW, "UPDATE of public.t matched no row", "look at the row", Lsn(0x1F4)
    )
    text = status_text(replace(STREAMING, phase=Phase.FAILED, resume_phase=Phase.STREAMING, failure=failure))
    assert "failed in streaming" in text
    assert "MISSING_ROW  UPDATE of public.t matched no row (at LSN 0/1F4)" in text
    assert "look at the row" in text


def test_result_of_a_switchover_is_in_the_status() -> None:
    result = SwitchoverResult(Lsn(0x1F4), 412, 1, NOW)
    text = status_text(replace(STREAMING, phase=Phase.SWITCHED_OVER, switchover=result))
    assert "writes were blocked for 412ms, 1 sequence set, everything before 0/1F4" in text


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("view", [COPYING, STREAMING])
def test_screens_keep_to_the_width(view: MigrationView, width: int) -> None:
    for what in (
        live(view, History(view), NOW, width),
        status(view, NOW, width, offline_since=None, all_tables=True),
    ):
        assert all(len(line) <= width for line in shown(what, width).splitlines())


def test_control_characters_of_names_do_not_reach_the_terminal() -> None:
    evil = "\x1b[2J\x07"
    view = replace(
        COPYING,
        source=Endpoint(f"old{evil}", 5432, f"shop{evil}", f"app{evil}"),
        tables=(table(f"orders{evil}", TableState.COPYING, MIB, 1),),
        events=(Event(NOW, EventLevel.INFO, f"hello{evil}"),),
        workers=(WorkerView("d", Role.DECODER, f"h{evil}", lost=True),),
        failure=Failure(ErrorKind.INTERNAL, f"message{evil}", f"hint{evil}"),
    )
    step = SwitchoverStep(StepName.FREEZE, StepState.FAILED, f"detail{evil}")
    for what in (
        status(view, NOW, 120, offline_since=None, all_tables=True),
        live(view, History(view), NOW, 120, f"note{evil}"),
        list_rows([(view, True)], NOW),
        step_text(step),
    ):
        assert "\x1b" not in shown(what)
        assert "\x07" not in shown(what)


@pytest.mark.parametrize(
    ("phase", "offline", "expected"),
    [
        (Phase.COPY, False, ""),
        (Phase.COPY, True, "pgmig-cli follow --id m"),
        (Phase.STREAMING, False, "pgmig-cli switchover --id m"),
        (Phase.PAUSED, False, "pgmig-cli resume --id m"),
        (Phase.FAILED, True, "pgmig-cli follow --id m"),
        (Phase.COMPLETE, True, "pgmig-cli cleanup --id m"),
        (Phase.ABORTED, False, "pgmig-cli cleanup --id m"),
    ],
)
def test_next_command(phase: Phase, offline: bool, expected: str) -> None:
    assert next_command(replace(COPYING, phase=phase), offline=offline) == expected


def test_lost_workers_are_named() -> None:
    workers = (WorkerView("a", Role.APPLIER, "h1", lost=True), WorkerView("d", Role.DECODER, "h1"))
    assert workers_attached(workers) == [("decoder", Tone.PLAIN), ("; lost: applier on h1", Tone.WARNING)]
    assert workers_attached(()) == [("none attached", Tone.WARNING)]


def test_plain_lines_have_each_event_once_and_progress_at_intervals(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    lines = PlainLines(lambda: now)
    lines.show(COPYING)
    lines.show(replace(COPYING, revision=2))
    now = 11.0
    lines.show(replace(COPYING, revision=3))
    lines.show(replace(STREAMING, events=(*COPYING.events, Event(NOW, EventLevel.WARNING, "slow disk"))))
    captured = capsys.readouterr()
    assert captured.out == ""
    told = captured.err.splitlines()
    assert len(told) == 3
    assert told[0].endswith("copying 3 tables")
    assert told[1] == plain_progress(COPYING, History(COPYING))
    assert told[2].endswith("slow disk")
