"""The tables of a migration's phases and a pipeline's states, and the diagrams that show them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import TypeVar

import pytest

from services.shared.model import (
    ErrorKind,
    MigrationPhase,
    OperationState,
    PgmigError,
    Phase,
    PipelineState,
    check_end,
    check_operation_move,
    check_phase_move,
    check_state,
    check_state_move,
    shown_phase,
)
from services.shared.model.lifecycle.migration_phase import (
    BOTH_FROM,
    ENDED_FROM,
    PHASE_TRANSITIONS,
    STATES,
    TURNS,
)
from services.shared.model.lifecycle.operation_state import OPERATION_TRANSITIONS
from services.shared.model.lifecycle.pipeline_state import STATE_TRANSITIONS

ARCHITECTURE = Path(__file__).resolve().parents[4] / "docs" / "architecture.md"
GROUP = "running"
OUTSIDE = "[*]"
Kind = TypeVar("Kind", bound=StrEnum)
BEFORE_SWITCHOVER = frozenset(
    {Phase.CREATED, Phase.SCHEMA, Phase.COPY, Phase.INDEXES, Phase.CATCHUP, Phase.STREAMING}
)


def _drawn(first: str) -> set[tuple[str, str]]:
    """The arrows of the diagram that begins with `first`; one that begins or ends at the group stands for all
    of its states."""
    (diagram,) = (
        part.split("```")[0]
        for part in ARCHITECTURE.read_text().split("stateDiagram-v2")[1:]
        if f"{OUTSIDE} --> {first}\n" in part.split("```")[0]
    )
    inner = diagram[diagram.index(f"state {GROUP} {{") :].split("}")[0] if f"state {GROUP}" in diagram else ""
    arrow = re.compile(r"^\s*(\S+) --> (\S+)", re.MULTILINE)
    members = sorted({name for pair in arrow.findall(inner) for name in pair})

    def names(name: str) -> list[str]:
        return members if members and name == GROUP else [name]

    return {
        (one.replace("_", "-"), other.replace("_", "-"))
        for source, target in arrow.findall(diagram)
        for one in names(source)
        for other in names(target)
    }


def _pairs(table: Mapping[Kind, Iterable[Kind]]) -> set[tuple[str, str]]:
    return {(str(source), str(target)) for source, targets in table.items() for target in targets}


def test_the_diagram_of_a_migration_shows_every_allowed_transition_and_no_other() -> None:
    allowed = {
        (source.value, target.value) for source in PHASE_TRANSITIONS for target in PHASE_TRANSITIONS[source]
    }
    ends = {(phase.value, OUTSIDE) for phase in MigrationPhase if phase.ended}
    assert _drawn("migrating") == allowed | ends | {(OUTSIDE, MigrationPhase.MIGRATING.value)}


def test_the_diagram_of_an_operation_shows_every_allowed_transition_and_no_other() -> None:
    allowed = {
        (source.value, target.value)
        for source, targets in OPERATION_TRANSITIONS.items()
        for target in targets
    }
    ends = {(state.value, OUTSIDE) for state in OperationState if state.ended}
    assert _drawn("preparing") == allowed | ends | {(OUTSIDE, OperationState.PREPARING.value)}


@pytest.mark.parametrize(("source", "target"), list(product(OperationState, OperationState)))
def test_an_operation_moves_only_as_its_table_allows(source: OperationState, target: OperationState) -> None:
    if target in OPERATION_TRANSITIONS[source]:
        check_operation_move(source, target)
        return
    with pytest.raises(PgmigError) as caught:
        check_operation_move(source, target)
    assert caught.value.kind is ErrorKind.WRONG_PHASE


def test_only_what_is_decided_or_undone_ends_an_operation_that_runs() -> None:
    ended = {state for state in OperationState if state.ended}
    assert OPERATION_TRANSITIONS[OperationState.RUNNING] == ended
    for state in (OperationState.PREPARING, OperationState.READY):
        assert not OPERATION_TRANSITIONS[state] & {OperationState.SUCCEEDED, OperationState.ROLLED_BACK}


def test_the_diagram_of_a_pipeline_shows_every_allowed_transition_and_no_other() -> None:
    allowed = {
        (source.value, target.value) for source in STATE_TRANSITIONS for target in STATE_TRANSITIONS[source]
    }
    ends = {(state.value, OUTSIDE) for state in PipelineState if not STATE_TRANSITIONS[state]}
    assert _drawn("created") == allowed | ends | {(OUTSIDE, PipelineState.CREATED.value)}


def test_every_phase_and_state_has_a_row_and_is_running_halted_or_ended() -> None:
    assert set(PHASE_TRANSITIONS) == set(STATES) == set(MigrationPhase)
    assert set(STATE_TRANSITIONS) == set(PipelineState)
    halted = {phase for phase in Phase if not (phase.running or phase.ended)}
    assert halted == {Phase.PAUSED, Phase.FAILED}
    assert {state for state in PipelineState if not state.running} == {
        PipelineState.PAUSED,
        PipelineState.FAILED,
        PipelineState.IDLE,
        PipelineState.ENDED,
    }


def test_a_switchover_is_neither_paused_nor_aborted_nor_decided_after_a_failure() -> None:
    moves: list[Callable[[], None]] = [
        lambda: check_phase_move(MigrationPhase.SWITCHOVER, MigrationPhase.ABORTED),
        lambda: check_state(MigrationPhase.SWITCHOVER, PipelineState.PAUSED),
        lambda: check_state(MigrationPhase.SWITCHOVER, PipelineState.COPY),
        lambda: check_state_move(PipelineState.ENDED, PipelineState.STREAMING),
        lambda: check_end(MigrationPhase.SWITCHED_OVER, PipelineState.FAILED),
    ]
    for refused in moves:
        with pytest.raises(PgmigError) as caught:
            refused()
        assert caught.value.kind is ErrorKind.WRONG_PHASE


def test_every_possible_pair_is_shown_and_every_phase_is_shown_for_one() -> None:
    pairs = [(phase, state) for phase in MigrationPhase for state in STATES[phase]]
    assert {shown_phase(*pair) for pair in pairs} == set(Phase)


def _may_follow(
    one: tuple[MigrationPhase, PipelineState], other: tuple[MigrationPhase, PipelineState]
) -> bool:
    """A pair changes in one of its parts; when the migration ends, or the other pipeline works, in both."""
    if other[0] is one[0]:
        return other[1] in STATE_TRANSITIONS[one[1]]
    if TURNS.get(one[0]) is other[0]:
        return (one[1], other[1]) == (PipelineState.STREAMING, PipelineState.CATCHUP)
    if other[0] is MigrationPhase.BIDIRECTIONAL:  # both pipelines work from then on
        works = one[1] in BOTH_FROM and other[1] is PipelineState.CATCHUP
        return other[0] in PHASE_TRANSITIONS[one[0]] and works
    if other[0].ended and one[0] in {MigrationPhase.REVERSE, MigrationPhase.BIDIRECTIONAL}:  # by an operator
        return other[0] in PHASE_TRANSITIONS[one[0]]
    if other[0].ended:
        return other[0] in PHASE_TRANSITIONS[one[0]] and one[1] in ENDED_FROM[other[0]]
    return other[0] in PHASE_TRANSITIONS[one[0]] and other[1] is one[1]


def test_what_is_shown_changes_as_phases_do() -> None:
    """The one word that clients see has a table of its own, which follows from those of its parts."""
    pairs = [(phase, state) for phase in MigrationPhase for state in STATES[phase]]
    moves = {
        (shown_phase(*one), shown_phase(*other))
        for one, other in product(pairs, pairs)
        if _may_follow(one, other)
    }
    halts = {(one, halt) for one in BEFORE_SWITCHOVER for halt in (Phase.PAUSED, Phase.FAILED)}
    resumed = {(halt, one) for one, halt in halts} | {(Phase.FAILED, Phase.SWITCHOVER)}
    back = {(Phase.REVERSE, halt) for halt in (Phase.PAUSED, Phase.FAILED)}
    back |= {(halt, Phase.REVERSE) for _, halt in back} | {(Phase.FAILED, Phase.ROLLBACK)}
    back |= {(one, Phase.SWITCHED_OVER) for one in (Phase.REVERSE, Phase.PAUSED, Phase.FAILED)}
    both = {(Phase.BIDIRECTIONAL, halt) for halt in (Phase.PAUSED, Phase.FAILED)}
    both |= {(halt, Phase.BIDIRECTIONAL) for _, halt in both}
    both |= {(one, Phase.BIDIRECTIONAL) for one in (Phase.CATCHUP, Phase.STREAMING)}
    both |= {(one, Phase.COMPLETE) for one in (Phase.BIDIRECTIONAL, Phase.PAUSED, Phase.FAILED)}
    both |= {(Phase.BIDIRECTIONAL, Phase.ABORTED)}
    aborted = {(one, Phase.ABORTED) for one in (*BEFORE_SWITCHOVER, Phase.PAUSED, Phase.FAILED)}
    assert {move for move in moves if move[0] is not move[1]} == halts | resumed | aborted | back | both | {
        (Phase.CREATED, Phase.SCHEMA),
        (Phase.SCHEMA, Phase.COPY),
        (Phase.COPY, Phase.INDEXES),
        (Phase.INDEXES, Phase.CATCHUP),
        (Phase.INDEXES, Phase.COMPLETE),
        (Phase.INDEXES, Phase.COPY),
        (Phase.CATCHUP, Phase.STREAMING),
        (Phase.CATCHUP, Phase.COPY),
        (Phase.STREAMING, Phase.CATCHUP),
        (Phase.STREAMING, Phase.COPY),
        (Phase.STREAMING, Phase.SWITCHOVER),
        (Phase.SWITCHOVER, Phase.STREAMING),
        (Phase.SWITCHOVER, Phase.SWITCHED_OVER),
        (Phase.SWITCHOVER, Phase.FAILED),
        (Phase.SWITCHOVER, Phase.REVERSE),
        (Phase.REVERSE, Phase.ROLLBACK),
        (Phase.ROLLBACK, Phase.REVERSE),
        (Phase.ROLLBACK, Phase.CATCHUP),
        (Phase.ROLLBACK, Phase.FAILED),
        (Phase.PAUSED, Phase.FAILED),
    }
