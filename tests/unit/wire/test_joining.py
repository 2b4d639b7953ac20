"""Fragments of messages: joined in memory or in a file, the same bytes come out."""

from __future__ import annotations

import gc
import mmap
import os
import tempfile
from pathlib import Path

import pytest

from services.shared.model import ErrorKind, PgmigError
from services.shared.wire.joining import LARGE, SPOOLED, joining

SIZES = (1, LARGE, LARGE + 1, SPOOLED, SPOOLED + 1)


def joined(data: bytes, fragment: int) -> bytes | memoryview:
    message = joining(len(data))
    for start in range(0, len(data), fragment):
        message.append(memoryview(data)[start : start + fragment])
    assert message.missing == 0
    return message.message()


@pytest.mark.parametrize("size", SIZES)
def test_the_bytes_are_those_of_the_fragments(size: int) -> None:
    data = os.urandom(size)
    assert joined(data, 100_001) == data


def test_only_what_is_larger_than_memory_should_hold_maps_a_file() -> None:
    kinds = [joined(bytes(size), size) for size in SIZES]
    assert [isinstance(kind, memoryview) for kind in kinds] == [False, False, True, True, True]
    maps = [isinstance(kind, memoryview) and isinstance(kind.obj, mmap.mmap) for kind in kinds]
    assert maps == [False, False, False, False, True]


def test_a_discarded_message_leaves_no_file_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    message = joining(SPOOLED + 1)
    message.append(memoryview(b"the beginning"))
    del message
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_no_room_for_a_file_is_reported_and_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(PgmigError) as caught:
        joining(SPOOLED + 1)
    assert caught.value.kind is ErrorKind.TRANSIENT
    assert "TMPDIR" in caught.value.hint
