"""Mutations of the rules about the guard of the destination, and about migrations that are given up."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

GUARD = "tests/integration/coordinator/operations/test_guard.py"
LIFTED = "tests/integration/coordinator/operations/test_guard_lifted.py"
FOREIGN = "tests/integration/coordinator/operations/test_foreign_writes.py"
GUARD_TAKEN = "tests/integration/coordinator/restarts/test_guard_taken_over.py"
TRIGGERS = "tests/integration/pg/guard/test_triggers.py"

MUTATIONS = (
    Mutation(
        "49 the destination is read-only by default",
        "services/coordinator/phases/schema.py",
        "    await guard(context)",
        "    pass",
        f"{GUARD}::test_nobody_else_writes_by_default_until_the_switchover",
    ),
    Mutation(
        "49 pgmig's sessions write nevertheless",
        "services/shared/pg/session/connection.py",
        '_WRITING = {"default_transaction_read_only": "off", "pgmig.own": "on"}',
        '_WRITING = {"pgmig.own": "on"}',
        f"{GUARD}::test_nobody_else_writes_by_default_until_the_switchover",
    ),
    Mutation(
        "49 sessions that began under the guard are ended",
        "services/shared/pg/guard/read_only.py",
        "ended, refused = await _end_under(conn, guard.at, until) if until else (0, [])",
        "ended, refused = 0, []",
        f"{GUARD}::test_nobody_else_writes_by_default_until_the_switchover",
    ),
    Mutation(
        "49 a clone opens the destination at its end",
        "services/coordinator/driver.py",
        "            await lift(context)\n",
        "",
        f"{GUARD}::test_clone_without_replication_opens_the_destination_at_its_end",
    ),
    Mutation(
        "49 abort opens the destination",
        "services/coordinator/operations/teardown.py",
        "    lifted = await lift(context)\n    await unwatch_soon(context)",
        "    lifted = False",
        f"{GUARD}::test_abort_and_cleanup_open_the_destination",
    ),
    Mutation(
        "49 the next coordinator opens the destination",
        "services/coordinator/phase_loop.py",
        "            (needed(self._context.pipeline) or settling.closed(self._context))\n",
        "            False\n",
        f"{GUARD}::test_coordinator_killed_after_the_decision_opens_the_destination_when_it_starts_again",
    ),
    Mutation(
        "49 what somebody else has set is kept",
        "services/shared/pg/guard/read_only.py",
        "    if found != FROZEN:",
        "    if False:",
        f"{GUARD}::test_what_somebody_else_has_set_is_kept_and_reported",
    ),
    Mutation(
        "49 the last migration into a database opens it",
        "services/shared/pg/guard/read_only.py",
        "    if others:",
        "    if False:",
        f"{GUARD}::test_database_stays_read_only_while_another_migration_guards_it",
    ),
    Mutation(
        "49 the guard is stored by a compare-and-set before it is set",
        "services/coordinator/pipeline/guarding.py",
        "        await context.journal.claim()",
        "        pass",
        f"{GUARD_TAKEN}::test_replaced_coordinator_does_not_guard",
    ),
    Mutation(
        "49 a coordinator that hangs does not set the guard after another has lifted it",
        "services/shared/pg/guard/read_only.py",
        "    await end_setters(conn, guard)\n    async with",
        "    async with",
        f"{GUARD_TAKEN}::test_coordinator_that_hangs_does_not_guard_after_another_has_lifted",
    ),
    Mutation(
        "50 writes of others are recorded from the copy on",
        "services/coordinator/tables/to_copy.py",
        "        await watch(context, [table.table for table in found.tables])",
        "        pass",
        f"{FOREIGN}::test_write_is_found_and_named_until_the_table_is_copied_again",
    ),
    Mutation(
        "50 a switchover is refused before anything is blocked",
        "services/coordinator/operations/switchover_steps.py",
        "            await check_foreign_writes(run.context)\n",
        "",
        f"{FOREIGN}::test_write_is_found_and_named_until_the_table_is_copied_again",
    ),
    Mutation(
        "50 open transactions that write are found before the decision",
        "services/coordinator/operations/switchover_steps.py",
        "await check_foreign_writes(run.context, open_ones=True)",
        "await check_foreign_writes(run.context)",
        f"{FOREIGN}::test_open_transaction_that_writes_prevents_the_decision",
    ),
    Mutation(
        "50 a record is kept until all rows that it may mean are copied again",
        "services/shared/pg/guard/forget_writes.sql",
        "JOIN pg_catalog.pg_inherits i ON i.inhparent = below.oid",
        "JOIN pg_catalog.pg_inherits i ON false",
        f"{FOREIGN}::test_write_to_a_partitioned_table_is_found",
    ),
    Mutation(
        "50 tables above and below have the trigger, too",
        "services/shared/pg/guard/without_trigger.sql",
        "    JOIN pg_catalog.pg_inherits i ON tree.oid IN (i.inhrelid, i.inhparent)",
        "    JOIN pg_catalog.pg_inherits i ON false",
        f"{FOREIGN}::test_write_to_a_partitioned_table_is_found",
    ),
    Mutation(
        "50 pgmig's own statements are not recorded",
        "services/shared/pg/guard/note_write.sql",
        "  IF own = 'on' THEN",
        "  IF false THEN",
        f"{FOREIGN}::test_emptying_a_table_that_is_divided_is_not_recorded",
    ),
    Mutation(
        "50 the triggers are dropped after the switchover",
        "services/coordinator/operations/switchover.py",
        "    await unwatch_soon(context, DROPPED_FIRST_S, last=False)",
        "    context.pipeline.writes_watched(watched=False)",
        f"{FOREIGN}::test_write_is_found_and_named_until_the_table_is_copied_again",
    ),
    Mutation(
        "50 triggers that cannot be dropped do nothing",
        "services/shared/pg/guard/foreign_writes.py",
        '            await _define(conn, pipeline, "BEGIN RETURN NULL; END")',
        "            pass",
        f"{FOREIGN}::test_triggers_are_gone_after_abort_and_cleanup",
    ),
    Mutation(
        "49 a switchover ends only when others can write to the destination",
        "services/coordinator/operations/switchover.py",
        "    opened = await _opened(context, feed, pipelines)",
        "    opened = True",
        f"{LIFTED}::test_it_ends_when_others_can_write",
    ),
    Mutation(
        "49 the destination is opened before triggers are dropped",
        "services/coordinator/phase_loop.py",
        "            self.switching.settle()\n            await self._context.journal.save()\n"
        "            await unwatch_at_last(self._context)",
        "            await unwatch_at_last(self._context)\n            self.switching.settle()",
        f"{LIFTED}::test_the_next_coordinator_opens_the_destination_and_ends_the_operation",
    ),
    Mutation(
        "49 a coordinator that was replaced does not lift the guard",
        "services/coordinator/pipeline/guarding.py",
        "        await context.journal.check_ours()",
        "        pass",
        f"{GUARD_TAKEN}::test_replaced_coordinator_does_not_lift",
    ),
    Mutation(
        "49 the session that lifts the guard is recorded",
        "services/coordinator/pipeline/guarding.py",
        "            known = await lifting(conn, known)\n",
        "",
        f"{GUARD_TAKEN}::test_coordinator_that_hangs_while_it_lifts_is_ended_by_the_next_one",
    ),
    Mutation(
        "49 sessions that began after the guard was lifted are not ended",
        "services/shared/pg/guard/read_only.py",
        "        if own is None or await _still_lifting(conn, pipeline, instance):",
        "        if True:",
        f"{GUARD_TAKEN}::test_sessions_that_began_after_the_lift_of_another_are_not_ended",
    ),
    Mutation(
        "50 what triggers call is not dropped",
        "services/shared/pg/bookkeeping/schema.py",
        "        await _check_unused(conn, pipeline, tables)\n",
        "",
        f"{TRIGGERS}::test_what_triggers_call_is_not_dropped",
    ),
    Mutation(
        "50 nobody queues behind the lock for a trigger",
        "services/shared/pg/guard/foreign_writes.py",
        "IN ACCESS EXCLUSIVE MODE NOWAIT",
        "IN ACCESS EXCLUSIVE MODE",
        f"{TRIGGERS}::test_nobody_queues_behind_the_lock_for_a_trigger",
    ),
    Mutation(
        "58 a migration is recorded as aborted before a part of it is removed",
        "services/coordinator/endings.py",
        "                raise\n            await self._end()\n",
        "                raise\n",
        f"{LIFTED}::test_what_an_abort_cannot_remove_is_left_to_cleanup[abort]",
    ),
    Mutation(
        "49 a second migration that would guard the same database is refused",
        "services/shared/pg/preflight/destination.py",
        "    if guards and (others",
        "    if False and (others",
        f"{GUARD}::test_another_migration_guards_the_same_database",
    ),
    Mutation(
        "49 nothing is switched over into a database that stays read-only",
        "services/coordinator/tables/foreign_writes.py",
        "        if others := await other_guards(conn, context.pipeline.id):",
        "        if others := ():",
        f"{GUARD}::test_another_migration_guards_the_same_database",
    ),
    Mutation(
        "50 the certificate states writes of others",
        "services/coordinator/operations/switchover_steps.py",
        "    run.evidence.destination_written(await check_foreign_writes(run.context, open_ones=True))",
        "    run.evidence.destination_written(())",
        f"{FOREIGN}::test_writes_are_only_a_warning_if_others_may_write",
    ),
)
