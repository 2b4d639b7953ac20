"""Whoever follows changes from any number has in the end what a new client gets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clients.web.changes import Changes
from services.shared.model import (
    Event,
    EventLevel,
    MigrationView,
    Phase,
    Positions,
    TableId,
    TableProgress,
    TableState,
)

_TABLES = st.lists(
    st.builds(
        TableProgress,
        st.sampled_from([TableId("app", name) for name in "abcd"]),
        st.sampled_from(TableState),
        bytes_copied=st.integers(0, 2),
    ),
    unique_by=lambda one: one.table,
    max_size=4,
).map(tuple)
_VIEWS = st.builds(
    MigrationView,
    st.just("m"),
    st.sampled_from([Phase.COPY, Phase.STREAMING]),
    created_at=st.sampled_from([1.0, 1.0, 1.0, 2.0]),
    positions=st.builds(Positions, lag_bytes=st.integers(0, 1)),
    tables=_TABLES,
)


def _with_events(views: list[MigrationView]) -> list[MigrationView]:
    """Each has one more event, and keeps the last three."""
    lines = [Event(float(number), EventLevel.INFO, f"line {number}", number) for number in range(1, 100)]
    return [replace(view, events=tuple(lines[max(0, n - 2) : n + 1])) for n, view in enumerate(views)]


def merged(document: dict[str, Any] | None, change: dict[str, Any]) -> dict[str, Any]:
    """As a client does it."""
    assert document is not None
    tables = {str(one["table"]): one for one in document["tables"]}
    tables |= {str(one["table"]): one for one in change.get("tables", [])}
    events = [*document["events"], *change.get("events", [])]
    return {**document, **change, "tables": list(tables.values()), "events": events}


def comparable(document: dict[str, Any]) -> dict[str, Any]:
    """Without the order of tables, and without events that are not kept any more."""
    tables = sorted(document["tables"], key=lambda one: str(one["table"]))
    return {**document, "tables": tables, "events": document["events"][-1:]}


@given(st.lists(_VIEWS, min_size=1, max_size=8).map(_with_events), st.sets(st.integers(0, 7)))
def test_changes_lead_to_the_snapshot_from_any_number(views: list[MigrationView], seen: set[int]) -> None:
    """seen: the views after which the client reads; the others pass it by."""
    changes = Changes()
    held, number = None, 0
    for position, view in enumerate(views):
        changes.add(view)
        if position in seen or position == len(views) - 1:
            change = changes.after(number) if held is not None else None
            held = merged(held, change) if change is not None else changes.whole()
            number = changes.sequence
    assert held is not None
    assert comparable(held) == comparable(changes.whole())


def test_a_view_that_is_the_same_is_no_change() -> None:
    changes, view = Changes(), MigrationView("m", Phase.COPY)
    assert changes.add(view)
    assert not changes.add(replace(view))
    assert changes.sequence == 1


def test_numbers_from_elsewhere_need_everything() -> None:
    changes = Changes()
    assert changes.after(0) is None
    changes.add(MigrationView("m", Phase.COPY))
    assert changes.after(0) is None
    assert changes.after(2) is None
    assert changes.after(1) == {}
