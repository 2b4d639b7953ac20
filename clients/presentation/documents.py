"""A migration as a JSON document, the same for the command line and the web server."""

from __future__ import annotations

from services.shared.model import MigrationView
from services.shared.model.view.jsonview import view_to_json


def document(view: MigrationView, recorded_at: float | None, now: float) -> dict[str, object]:
    """The view, whether it is live, and its time (Unix seconds). recorded_at: when it was written, if no
    coordinator runs."""
    return {**view_to_json(view), **freshness(recorded_at, now)}


def freshness(recorded_at: float | None, now: float) -> dict[str, object]:
    """live: whether a coordinator has answered now. as_of: the time of the figures, Unix seconds."""
    return {"live": recorded_at is None, "as_of": now if recorded_at is None else recorded_at}
