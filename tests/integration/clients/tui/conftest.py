"""Time in the dashboard, as a test needs it."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dashboard's own clock stands still, so that its history has the test's samples and no others."""
    monkeypatch.setattr("clients.tui.app.INTERVAL_S", 3600.0)
