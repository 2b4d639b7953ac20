"""Two databases to copy tables between."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.copy_bed import Bed
from tests.support.copying import keep_books


@pytest.fixture
async def bed(source_db: str, dest_db: str) -> AsyncIterator[Bed]:
    await keep_books(dest_db)
    yield Bed(source_db, dest_db)
