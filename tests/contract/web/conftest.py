from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.web.served import Served, served


@pytest_asyncio.fixture
async def web(tmp_path: Path) -> AsyncIterator[Served]:
    """The web server with a stand-in coordinator."""
    async with served(tmp_path) as found:
        yield found
