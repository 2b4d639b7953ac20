"""A coordinator whose migrations the test makes up, and an environment without pgmig's variables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.thread import ServedControl, served_control


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, state_dir: Path) -> None:
    for name in ("SOURCE_URI", "DEST_URI", "COORDINATOR", "ID"):
        monkeypatch.delenv(f"PGMIG_{name}", raising=False)
    monkeypatch.setenv("PGMIG_STATE_DIR", str(state_dir))


@pytest.fixture
def served() -> Iterator[ServedControl]:
    with served_control() as served:
        yield served
