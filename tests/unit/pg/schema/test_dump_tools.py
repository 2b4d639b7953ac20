"""Asking pg_dump for its version, no more often than needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.schema.dump_tools import BINDIR_VARIABLE, find_tools


def programs(bindir: Path, major: int | None) -> Path:
    """A stand-in that tells this version, or none, and notes in `runs` that it was asked."""
    told = f"echo 'x (PostgreSQL) {major}.1'" if major else "exit 127"
    new = bindir / "pg_dump.new"
    new.write_text(f"#!/bin/sh\necho run >> {bindir}/runs\n{told}\n")
    new.chmod(0o755)
    new.replace(bindir / "pg_dump")
    return bindir


def runs(bindir: Path) -> int:
    return len((bindir / "runs").read_text().splitlines())


async def test_version_is_asked_again_only_of_another_file(tmp_path: Path) -> None:
    environ = {BINDIR_VARIABLE: str(programs(tmp_path, 17))}
    for _ in range(3):
        assert (await find_tools(16, 17, environ)).major == 17
    assert runs(tmp_path) == 1
    programs(tmp_path, 18)
    assert (await find_tools(16, 18, environ)).major == 18
    assert runs(tmp_path) == 2


async def test_program_that_prints_no_version_is_asked_again(tmp_path: Path) -> None:
    """What it lacked, like a library, may have been installed meanwhile."""
    environ = {BINDIR_VARIABLE: str(programs(tmp_path, None))}
    for _ in range(2):
        with pytest.raises(PgmigError) as caught:
            await find_tools(16, 17, environ)
        assert caught.value.kind is ErrorKind.TOOL_MISSING
    assert runs(tmp_path) == 2
