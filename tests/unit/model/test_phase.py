"""The table of a migration's phases, and the diagram that shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.shared.model import ErrorKind, PgmigError, Phase, check_move
from services.shared.model.phase import TRANSITIONS

ARCHITECTURE = Path(__file__).resolve().parents[3] / "docs" / "architecture.md"
GROUP = "before_switchover"
OUTSIDE = "[*]"


def _drawn() -> set[tuple[str, str]]:
    """The arrows of the diagram; one that begins or ends at the group stands for all its phases."""
    text = ARCHITECTURE.read_text()
    diagram = text[text.index("stateDiagram-v2") :].split("```")[0]
    inner = diagram[diagram.index(f"state {GROUP} {{") :].split("}")[0]
    arrow = re.compile(r"^\s*(\S+) --> (\S+)", re.MULTILINE)
    members = sorted({name for pair in arrow.findall(inner) for name in pair})

    def phases(name: str) -> list[str]:
        return members if name == GROUP else [name]

    return {
        (one.replace("_", "-"), other.replace("_", "-"))
        for source, target in arrow.findall(diagram)
        for one in phases(source)
        for other in phases(target)
    }


def test_the_diagram_shows_every_allowed_transition_and_no_other() -> None:
    allowed = {(source.value, target.value) for source in TRANSITIONS for target in TRANSITIONS[source]}
    ends = {(phase.value, OUTSIDE) for phase in Phase if phase.ended}
    assert _drawn() == allowed | ends | {(OUTSIDE, Phase.CREATED.value)}


def test_every_phase_has_a_row_and_is_running_halted_or_ended() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert {phase for phase in Phase if not (phase.running or phase.ended)} == {Phase.PAUSED, Phase.FAILED}


def test_a_switchover_is_neither_paused_nor_aborted() -> None:
    for target in (Phase.PAUSED, Phase.ABORTED):
        with pytest.raises(PgmigError) as caught:
            check_move(Phase.SWITCHOVER, target)
        assert caught.value.kind is ErrorKind.WRONG_PHASE
