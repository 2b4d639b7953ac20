"""`switchover --dry-run`: what reaches the coordinator, what is printed, and the exit code."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from clients.cli.option_values import lag
from services.shared.model import DryRunResult, LagLimit, Readiness, StepState, SwitchoverOptions
from tests.fakes.control_service import DRY_RUN, NOT_READY
from tests.fakes.thread import ServedControl
from tests.support.clients.commands import at, put

BEHIND, RIGHTS, REFUSED = DRY_RUN
assert isinstance(REFUSED, DryRunResult)
READY = replace(REFUSED, readiness=Readiness(True), can_switch=True)


def test_steps_go_to_stderr_and_the_outcome_with_its_estimate_to_stdout(served: ServedControl) -> None:
    put(served)
    served.control.dry = (RIGHTS, READY)
    result = at(served, "switchover", "--dry-run", "--max-lag", "5s")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "can switch over: yes",
        "writes would be blocked for about 350ms (an estimate: drain 300ms, commit 50ms)",
    ]
    assert "✔ rights      they suffice" in result.stderr
    calls = [call[0] for call in served.control.calls]
    assert ("dry_run", "m", LagLimit(seconds=5.0), SwitchoverOptions()) in served.control.calls
    assert "switchover" not in calls


@pytest.mark.parametrize(
    "other", ["--proceed", "--cancel", "--attach", "--hold", "--request-id=x", "--detach"]
)
def test_options_of_a_switchover_are_refused(served: ServedControl, other: str) -> None:
    """Otherwise only the dry run would take place, and the operator would expect the other thing."""
    put(served)
    result = at(served, "switchover", "--dry-run", other)
    assert result.exit_code == 2
    assert "--dry-run begins no switchover" in result.stderr
    assert not [call for call in served.control.calls if call[0] == "dry_run"]


@pytest.mark.parametrize("given", ["--timeout=30s", "--freeze=database", "--max-lag=5s"])
@pytest.mark.parametrize("action", ["--proceed", "--cancel", "--attach"])
def test_options_of_a_request_are_refused_for_one_that_was_made_before(
    served: ServedControl, action: str, given: str
) -> None:
    """It keeps its own, so they would have no effect."""
    put(served)
    result = at(served, "switchover", action, given)
    assert result.exit_code == 2
    assert "requested before" in result.stderr


def test_without_a_limit_the_lag_has_to_fit_in_the_timeout(served: ServedControl) -> None:
    put(served)
    served.control.dry = (READY,)
    assert at(served, "switchover", "--dry-run", "--timeout", "45s", "--max-lag", "64MB").exit_code == 0
    assert ("dry_run", "m", LagLimit(64 << 20, 45.0), SwitchoverOptions()) in served.control.calls


def test_a_switchover_carries_the_limit(served: ServedControl) -> None:
    put(served)
    assert at(served, "switchover", "--detach", "--max-lag", "64MB").exit_code == 0
    assert served.control.operations["m-1"].options.max_lag == LagLimit(bytes=64 << 20)
    assert at(served, "switchover", "--cancel", "--max-lag", "64MB").exit_code == 2


def test_what_is_in_the_way_is_told_with_its_remedy_and_exit_code_3(served: ServedControl) -> None:
    put(served)
    served.control.dry = DRY_RUN
    result = at(served, "switchover", "--dry-run")
    assert result.exit_code == 3
    assert "✘ readiness   it is behind" in result.stderr
    assert "→ wait" in result.stderr
    assert result.stdout.splitlines()[:3] == ["can switch over: no", "✘ it is behind", "  → wait"]
    served.control.dry = (replace(RIGHTS, state=StepState.FAILED), replace(READY, can_switch=False))
    result = at(served, "switchover", "--dry-run")
    assert result.exit_code == 3
    assert result.stdout.splitlines()[0] == "can switch over: no, a step failed"


def test_as_json_it_is_one_document_a_line(served: ServedControl) -> None:
    put(served)
    served.control.dry = DRY_RUN
    result = at(served, "switchover", "--dry-run", "-o", "json")
    assert result.exit_code == 3
    first, _, last = map(json.loads, result.stdout.splitlines())
    assert (first["name"], first["state"], first["remedy"]) == ("readiness", "failed", "wait")
    assert last["can_switch"] is False
    assert last["readiness"]["reasons"][0]["code"] == NOT_READY.reasons[0].code.value
    assert last["estimate"][0] == {"step": "drain", "milliseconds": 300}


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("5s", LagLimit(seconds=5.0)),
        ("500ms", LagLimit(seconds=0.5)),
        ("2m", LagLimit(seconds=120.0)),
        ("64MB", LagLimit(bytes=64 << 20)),
        ("1.5 GB", LagLimit(bytes=3 << 29)),
        ("100B", LagLimit(bytes=100)),
    ],
)
def test_lag_is_a_duration_or_a_size(text: str, limit: LagLimit) -> None:
    assert lag(text) == limit


@pytest.mark.parametrize("text", ["30", "64M", "", "0s", "MB", "-1s", "0MB", "1 week"])
def test_lag_without_a_clear_unit_is_refused(served: ServedControl, text: str) -> None:
    put(served)
    result = at(served, "switchover", "--dry-run", f"--max-lag={text}")
    assert result.exit_code == 2
    assert "dry_run" not in [call[0] for call in served.control.calls]
