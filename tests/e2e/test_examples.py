"""The programs in examples/ do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.data.workload import Writer
from tests.support.environment import clean_environment
from tests.support.migrations.stack import Stack
from tests.support.migrations.verdict import checks, left_on_destination, left_on_source, problems

EXAMPLE = Path(__file__).parents[2] / "examples" / "migrate.py"


def test_a_program_migrates_a_live_database(shop: str, dest_db: str, writer: Writer, stack: Stack) -> None:
    environment = clean_environment(
        PGMIG_COORDINATOR=stack.address, PGMIG_SOURCE_URI=shop, PGMIG_DEST_URI=dest_db
    )
    done = subprocess.run(
        [sys.executable, EXAMPLE, "example"],
        env=environment, check=False, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    report = writer.wait_until_cut_off()
    assert done.returncode == 0, done.stderr
    assert "phase: streaming\n" in done.stdout
    assert "switchover: commit done\n" in done.stdout
    assert problems(checks(shop, dest_db, report)) == []
    assert left_on_source(shop) == []
    assert left_on_destination(dest_db) == []
