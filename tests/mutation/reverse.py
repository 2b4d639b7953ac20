"""Mutations of the rules about pipelines that start without a copy (60 and 61)."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

CHECK = "tests/integration/pg/reverse/test_check.py"
PREPARE = "tests/integration/pg/reverse/test_prepare.py"

MUTATIONS = (
    Mutation(
        "60 the start position is on disk",
        "services/shared/pg/reverse/position.py",
        "pg_catalog.pg_logical_emit_message(true, 'pgmig', 'position')",
        "pg_catalog.pg_current_wal_insert_lsn()",
        f"{PREPARE}::test_the_position_divides_earlier_commits_from_later_ones",
    ),
    Mutation(
        "60 not over the progress of an earlier pipeline",
        "services/shared/pg/reverse/prepare.py",
        "if progress := await applied_progress(conn, self.pipeline):",
        "if progress := Lsn(0):",
        f"{PREPARE}::test_progress_of_an_earlier_pipeline_is_refused",
    ),
    Mutation(
        "60 the server ends the creation of a slot",
        "services/shared/pg/reverse/prepare.py",
        'await conn.execute(sql.SQL("SET statement_timeout = {}").format(limit))',
        "pass",
        f"{PREPARE}::test_the_server_ends_the_attempt_of_a_process_that_was_killed",
    ),
    Mutation(
        "61 every change of every table is replicated back",
        "services/shared/pg/reverse/check.py",
        "NoKeyTables.IDENTITY_FULL if allowed else NoKeyTables.REFUSE",
        "options.no_key_tables",
        f"{CHECK}::test_a_table_whose_changes_could_not_be_replicated_completely",
    ),
    Mutation(
        "61 columns that are generated on one side only",
        "services/shared/pg/reverse/tables.py",
        "elif column.generated and not other.generated:",
        "elif False:",
        f"{CHECK}::test_tables_that_differ",
    ),
)
