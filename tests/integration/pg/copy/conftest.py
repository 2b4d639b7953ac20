"""Two databases to copy tables between."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.copying.databases import keep_books
from tests.support.copying.parts import Bed


@pytest.fixture
async def bed(source_db: str, dest_db: str) -> AsyncIterator[Bed]:
    await keep_books(dest_db)
    yield Bed(source_db, dest_db)
