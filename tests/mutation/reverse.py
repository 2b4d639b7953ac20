"""Mutations of the rules about pipelines that start without a copy (60 to 66)."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

CHECK = "tests/integration/pg/reverse/test_check.py"
PREPARE = "tests/integration/pg/reverse/test_prepare.py"
LOCAL_ONLY = "tests/unit/wire/test_local_only.py"
ORIGINS = "tests/integration/pipeline/test_local_only.py"
OUTCOME = "tests/unit/coordinator/migration/test_outcome.py"
ROLLBACK = "tests/integration/coordinator/operations/test_rollback.py"
KILLED = "tests/integration/coordinator/operations/test_rollback_failpoints.py"
TURNING = "tests/unit/coordinator/operations/test_turning.py"
SETTLING = "tests/unit/coordinator/operations/test_settling.py"
THERE_AND_BACK = "tests/integration/pipeline/test_reverse.py"

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
    Mutation(
        "61 others that replicate into the publisher",
        "services/shared/pg/reverse/check.py",
        "        await others.check(findings, publisher, pipeline.migration, pipeline.publisher)",
        "        pass",
        f"{CHECK}::test_others_that_replicate_into_a_side",
    ),
    Mutation(
        "61 others that replicate into the subscriber",
        "services/shared/pg/reverse/check.py",
        "        await others.check(findings, subscriber, pipeline.migration, pipeline.subscriber)",
        "        pass",
        f"{CHECK}::test_others_that_replicate_into_a_side",
    ),
    Mutation(
        "61 a subscription that is created during the freeze",
        "services/coordinator/operations/turning.py",
        "        await refuse_subscriptions(conn, side)",
        "        pass",
        f"{ROLLBACK}::test_a_subscription_that_is_created_during_the_freeze_undoes_the_operation",
    ),
    Mutation(
        "62 each transaction is judged by itself",
        "services/decoder/batcher.py",
        "self._foreign = self._hidden = False  # nothing of one transaction decides about the next",
        "pass",
        f"{ORIGINS}::test_transactions_with_an_origin_are_dropped_and_no_others",
    ),
    Mutation(
        "62 the fast path drops them too",
        "services/decoder/batcher.py",
        "if self._skipping or self._foreign or self._missing or self._marks.due:",
        "if self._skipping or self._missing or self._marks.due:",
        f"{LOCAL_ONLY}::test_local_transactions_come_out_whole_and_no_others",
    ),
    Mutation(
        "62 a batch that ends during a dropped transaction",
        "services/decoder/batcher.py",
        "return self.in_transaction and not self._hidden",
        "return self.in_transaction",
        f"{LOCAL_ONLY}::test_local_transactions_come_out_whole_and_no_others",
    ),
    Mutation(
        "62 the chain has no gap at dropped transactions",
        "services/decoder/batcher.py",
        "            previous_lsn=self._previous,\n            end_lsn=wal_end,",
        "            previous_lsn=self.position,\n            end_lsn=wal_end,",
        f"{LOCAL_ONLY}::test_a_heartbeat_moves_the_progress_over_dropped_transactions",
    ),
    Mutation(
        "62 the slot moves over dropped transactions",
        "services/decoder/batcher.py",
        "wal_end < self.position or wal_end <= self._previous",
        "wal_end <= self.position",
        f"{LOCAL_ONLY}::test_a_heartbeat_moves_the_progress_over_dropped_transactions",
    ),
    Mutation(
        "62 the server's own filter",
        "services/shared/pg/replication/stream_options.py",
        'options["origin"] = "none"',
        'options["origin"] = "any"',
        f"{ORIGINS}::test_transactions_with_an_origin_are_dropped_and_no_others",
    ),
    Mutation(
        "63 no trigger or foreign key acts",
        "services/shared/pg/apply/session.py",
        '"SET session_replication_role = replica"',
        '"SET session_replication_role = origin"',
        f"{THERE_AND_BACK}::test_there_and_back_and_there_again[17-18]",
    ),
    Mutation(
        "63 a database that is read-only by default",
        "services/shared/pg/apply/session.py",
        'await conn.execute("SET default_transaction_read_only = off")',
        "pass",
        f"{THERE_AND_BACK}::test_there_and_back_and_there_again[17-18]",
    ),
    Mutation(
        "63 an altered table stops the pipeline",
        "services/shared/pg/reverse/prepare.py",
        "await note_tables(subscriber, self.pipeline, freshly_known(identities, roots))",
        "pass",
        f"{THERE_AND_BACK}::test_a_table_that_was_altered_on_the_new_primary_stops_the_pipeline",
    ),
    Mutation(
        "65 sessions of a coordinator that was replaced are terminated",
        "services/shared/pg/reverse/ends.py",
        'await end_own(publisher, theirs[0], f"an earlier coordinator on the {pipeline.publisher}")',
        "pass",
        f"{PREPARE}::test_a_coordinator_that_was_replaced_changes_nothing_any_more",
    ),
    Mutation(
        "65 sessions are recorded before they change anything",
        "services/shared/pg/reverse/ends.py",
        "                await announce(EndSessions((*theirs[0], own[0]), (*theirs[1], own[1])))",
        "                pass",
        f"{PREPARE}::test_nothing_is_changed_by_who_may_not_record_its_sessions",
    ),
    Mutation(
        "65 the fence of a pipeline outlives it",
        "services/shared/pg/reverse/remove.py",
        'KEPT = ("applier", "guard", "stride")',
        'KEPT = ("guard", "stride")',
        f"{PREPARE}::test_an_applier_of_a_pipeline_that_was_retired_cannot_return",
    ),
    Mutation(
        "65 workers of an idle pipeline are not accepted",
        "services/coordinator/pipeline/reports.py",
        "        return self._pipeline.running ",
        "        return self._migration.phase.running ",
        f"{OUTCOME}::test_workers_of_an_idle_pipeline_are_not_accepted",
    ),
    Mutation(
        "65 workers of an earlier run are not accepted",
        "services/coordinator/pipeline/reports.py",
        "if known or not rest or rest.startswith(TURN):",
        "if known or not rest:",
        f"{OUTCOME}::test_workers_of_an_earlier_run_of_a_pipeline_are_not_accepted",
    ),
    Mutation(
        "65 the decision has a new epoch for the pipeline that becomes idle",
        "services/coordinator/migration/outcome.py",
        "state=PipelineState.IDLE, applier_epoch=decision.turn.epoch,",
        "state=PipelineState.IDLE,",
        f"{OUTCOME}::test_one_write_ends_one_direction_and_starts_the_other",
    ),
    Mutation(
        "66 the decision has the position at which the other direction starts",
        "services/coordinator/migration/outcome.py",
        "        slot=decision.turn.start,\n",
        "",
        f"{OUTCOME}::test_one_write_ends_one_direction_and_starts_the_other",
    ),
    Mutation(
        "66 both directions send local transactions only",
        "services/coordinator/pipeline/staffing.py",
        "local_only=self._pipeline.without_copy or",
        "local_only=False and",
        f"{OUTCOME}::test_only_local_transactions_are_replicated_once_the_direction_has_changed",
    ),
    Mutation(
        "66 reports about an earlier run are forgotten",
        "services/coordinator/migration/state.py",
        "            self._pipelines.pop(record.active, None)",
        "            pass",
        f"{OUTCOME}::test_what_was_reported_about_an_earlier_run_is_forgotten",
    ),
    Mutation(
        "66 only what the current operation has prepared is kept",
        "services/coordinator/operations/settling.py",
        "idle.context.pipeline.record.prepared_by == operation.operation_id",
        "True",
        f"{SETTLING}::test_the_pipeline_that_worked_is_retired_although_another_operation_has_begun",
    ),
    Mutation(
        "66 the new primary is the server on which the way back was prepared",
        "services/coordinator/operations/turning.py",
        "if (found.system_identifier, found.timeline) != (prepared.system_identifier, prepared.timeline):",
        "if False:",
        f"{TURNING}::test_another_server_or_timeline_is_refused",
    ),
    Mutation(
        "66 no operation begins while the new primary is being opened",
        "services/coordinator/operations/readiness.py",
        "    if _being_opened(record):",
        "    if False:",
        f"{OUTCOME}::test_no_operation_begins_while_the_new_primary_is_being_opened",
    ),
    Mutation(
        "66 the way back is still complete during the freeze",
        "services/coordinator/operations/switchover.py",
        "            run.milestone = await turning.confirm(run.context, run.turns, run.uris, freeze)",
        "            pass",
        f"{ROLLBACK}::test_a_slot_that_vanishes_during_the_freeze_undoes_the_switchover",
    ),
    Mutation(
        "66 others that write to the side that was left are found",
        "services/coordinator/operations/settling.py",
        "                await watch(works, [one.table for one in works.pipeline.copying.records()])",
        "                pass",
        f"{ROLLBACK}::test_others_that_write_to_the_side_that_was_left_refuse_the_rollback",
    ),
    Mutation(
        "66 the next coordinator opens the new primary",
        "services/coordinator/phase_loop.py",
        "            return\n        await settling.open_at_last(self.pipelines)",
        "            return",
        f"{KILLED}::test_coordinator_killed_during_a_rollback_leaves_one_writable_side[rollback.decided=kill]",
    ),
    Mutation(
        "66 cleanup of an undecided rollback does not open the source",
        "services/coordinator/operations/teardown.py",
        "MigrationPhase.REVERSE, MigrationPhase.ROLLBACK})\n",
        "MigrationPhase.REVERSE})\n",
        f"{KILLED}::test_cleanup_of_an_undecided_rollback_opens_the_destination_and_not_the_source",
    ),
    Mutation(
        "66 a switchover after a rollback opens the destination",
        "services/coordinator/operations/switchover.py",
        "            await settling.open_at_last(pipelines, tell)",
        "            pass",
        f"{ROLLBACK}::test_a_switchover_after_a_rollback_opens_the_destination_and_guards_the_source",
    ),
    Mutation(
        "66 late writes are looked for after a switchover that follows a rollback",
        "services/coordinator/operations/teardown.py",
        "record.phase is MigrationPhase.SWITCHED_OVER and not record.finalized and not force",
        "len(record.pipelines) == 1 and not force",
        f"{ROLLBACK}::test_a_switchover_after_a_rollback_opens_the_destination_and_guards_the_source",
    ),
)
