"""Breaks each data-safety rule once, in a copy of the tree, and demands that its test fails.

    python -m tests.mutations [RULE ...]

Rules are those of docs/safety.md. Compiled twins are left out, so that the Python is what breaks.
Not part of `make test`: it tests the tests.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = "tests/integration/test_pipeline.py"
BATCHES = "tests/unit/test_batches.py"
TIMEOUT_S = 180


@dataclass(frozen=True)
class Mutation:
    """Replace `old` by `new` in `file`; `test` (a pytest node or file) must fail."""

    rule: str
    file: str
    old: str
    new: str
    test: str


MUTATIONS = (
    Mutation(
        "1 commit order",
        "services/applier/assembler.py",
        "self._skipping = begin.final_lsn < self._progress",
        "self._skipping = begin.xid < getattr(self, '_xid', 0); self._xid = begin.xid",
        f"{PIPELINE}::test_commits_that_interleave_arrive_in_commit_order",
    ),
    Mutation(
        "2 the slot is the truth",
        "services/decoder/stream.py",
        "max(self._confirmed, self._flushed())",
        "max(self._confirmed, self._batcher.position)",
        f"{PIPELINE}::test_the_slot_is_told_only_what_the_destination_has_flushed",
    ),
    Mutation(
        "3 exactly once",
        "services/shared/pg/apply.py",
        'self._held.append(Operation(_ORIGIN, (str(end).encode(), b"%d" % commit_time_us)))',
        "pass",
        f"{PIPELINE}::test_restarts_of_both_sides_neither_lose_nor_repeat",
    ),
    Mutation(
        "4 gaps are refused",
        "services/applier/assembler.py",
        "batch.previous_lsn > self.progress:",
        "False:",
        f"{PIPELINE}::test_a_slot_moved_beyond_progress_is_a_gap",
    ),
    Mutation(
        "4 the recorded source",
        "services/decoder/slot.py",
        "if recorded != found:",
        "if False:",
        f"{PIPELINE}::test_another_source_under_the_same_address_is_refused",
    ),
    Mutation(
        "3 exactly once, where transactions come in runs",
        "services/shared/pgoutput/rows.py",
        "    if begin.final_lsn < floor:",
        "    if False:",
        f"{BATCHES}::test_a_run_begins_behind_what_is_covered",
    ),
    Mutation(
        "5 whole transactions",
        "services/applier/writer.py",
        "        if not group[-1].transactions:\n            return\n        last",
        "        if not group[-1].transactions:\n"
        "            self._session.commit(self._session.progress, 0)\n"
        "            return\n        last",
        f"{PIPELINE}::test_a_large_transaction_is_atomic_and_complete",
    ),
    Mutation(
        "6 keepalives prove nothing",
        "services/decoder/batcher.py",
        "if self.in_transaction or self._chunks or wal_end <= self.position:",
        "if wal_end <= self.position:",
        f"{BATCHES}::test_a_heartbeat_waits_for_what_is_under_way",
    ),
    Mutation(
        "7 the sentinel",
        "services/applier/writer.py",
        "            await self._session.settle()\n            await self._session.await_flush()\n",
        "",
        "tests/unit/test_applier_writer.py::test_a_sentinel_counts_when_its_transaction_is_on_disk",
    ),
    Mutation(
        "8 snapshot and slot",
        "services/decoder/slot.py",
        "await snapshots.adopt(exported, consistent)",
        "await snapshots.adopt(None, consistent)",
        "tests/integration/test_slot.py::test_the_first_snapshot_is_the_slots_own",
    ),
    Mutation(
        "9 a copy outlives its snapshot",
        "services/applier/planner.py",
        "return floor is not None and self._commit_lsn < floor.value",
        "return False",
        f"{PIPELINE}::test_changes_below_a_tables_floor_are_in_its_copy",
    ),
    Mutation(
        "9 parts of a plan that was given up",
        "services/shared/pg/copy_ledger.py",
        "    WHERE coalesce(({plan} FOR SHARE), '') = {epoch}",
        "",
        "tests/integration/test_copy_parts.py::test_a_part_whose_plan_is_given_up_meanwhile_cannot_commit",
    ),
    Mutation(
        "9 floors, where transactions come in runs",
        "services/applier/planner.py",
        "            if self._floors or self._skip:",
        "            if self._skip:",
        f"{PIPELINE}::test_changes_below_a_tables_floor_are_in_its_copy",
    ),
    Mutation(
        "10 values are bytes",
        "services/shared/pg/target.py",
        "value is not UNCHANGED and not self.columns",
        "value is not None and value is not UNCHANGED and not self.columns",
        f"{PIPELINE}::test_null_and_empty_and_unchanged_are_three_things",
    ),
    Mutation(
        "11 zero rows matched",
        "services/shared/pg/apply.py",
        "if operation.rows is not None and count != operation.rows:",
        "if False:",
        f"{PIPELINE}::test_update_of_a_missing_row_stops_the_pipeline",
    ),
    Mutation(
        "12 stop, never skip",
        "services/applier/writer.py",
        "            await self._execute([one], row_by_row(one.steps))\n",
        "            try:\n"
        "                await self._execute([one], row_by_row(one.steps))\n"
        "            except PgmigError:\n"
        "                await self._session.rollback()\n"
        "                continue\n",
        f"{PIPELINE}::test_a_refused_change_stops_the_pipeline_at_its_transaction",
    ),
    Mutation(
        "12 what was refused is not committed",
        "services/applier/writer.py",
        "            self._under_way = None\n            await self._write_again(group, exc)\n",
        "            self._under_way = None\n",
        f"{PIPELINE}::test_a_refused_change_stops_the_pipeline_at_its_transaction",
    ),
    Mutation(
        "12 exactly the one that was given up",
        "services/applier/planner.py",
        "self._given_up = commit_lsn in self._skip",
        "self._given_up = commit_lsn >= min(self._skip, default=1 << 64)",
        f"{PIPELINE}::test_a_skipped_transaction_is_left_out_whole_and_alone",
    ),
    Mutation(
        "13 batching keeps meaning",
        "services/applier/pending.py",
        "self._rows[key] = (before[0], _merged(before[1], new))",
        "self._rows[key] = (before[0], new)",
        "tests/unit/test_compact.py::test_the_net_effect_is_the_effect_of_the_steps",
    ),
    Mutation(
        "14 bounded memory",
        "services/applier/chunks.py",
        "while self._chunks and self._bytes + size > self._capacity:",
        "while False:",
        "tests/unit/test_applier_writer.py::test_a_full_queue_makes_the_reader_wait",
    ),
    Mutation(
        "15 the bus is untrusted",
        "services/shared/wire/changes.py",
        "if crc32(wire.payload) != wire.crc32:",
        "if False:",
        f"{BATCHES}::test_damaged_payloads_are_refused_by_the_checksum",
    ),
    Mutation(
        "16 an index waits for its table's rows",
        "services/coordinator/schedule.py",
        "if not self._all_complete and task.table not in self._complete:",
        "if False:",
        "tests/unit/test_schedule.py::test_a_table_that_is_emptied_again_waits_again",
    ),
    Mutation(
        "16 foreign keys wait for rows of one moment",
        "services/coordinator/phases/indexes.py",
        "    if target:",
        "    if False:",
        "tests/integration/test_indexes_during_copy.py"
        "::test_complete_tables_get_their_indexes_while_another_is_copied[decoder]",
    ),
)


def fails(mutation: Mutation, tree: Path) -> bool:
    """Whether the test fails with the mutation in place; the file is restored."""
    path = tree / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.rule}: {mutation.file} holds it {text.count(mutation.old)} times")
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutation.test]
        done = subprocess.run(
            command, check=False, cwd=tree, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(text)
    if done.returncode not in {0, 1}:
        raise SystemExit(f"{mutation.rule}: {mutation.test} could not be run\n{done.stdout[-2000:]}")
    return done.returncode == 1


def main(rules: list[str]) -> int:
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="pgmig-mutations-") as folder:
        tree = Path(folder) / "tree"
        ignore = shutil.ignore_patterns(
            ".git", ".venv", ".servers", "gen", "__pycache__", ".*_cache", ".hypothesis", "*.so"
        )
        shutil.copytree(ROOT, tree, ignore=ignore)
        for mutation in MUTATIONS:
            if rules and mutation.rule.split()[0] not in rules:
                continue
            red = fails(mutation, tree)
            survivors += not red
            print(
                f"{'red ' if red else 'GREEN'}  {mutation.rule}  ({mutation.test.split('::')[-1]})",
                flush=True,
            )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
