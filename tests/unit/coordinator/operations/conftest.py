"""A migration that can be switched over."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.switching import Stand, use


@pytest.fixture
async def stand(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stand]:
    stand = Stand()
    use(stand, monkeypatch)
    yield stand
    await stand.switching.stop()
