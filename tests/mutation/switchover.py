"""Mutations of the rules about freeze and switchover (40 to 48)."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

STALE_STATE = "tests/integration/coordinator/restarts/test_stale_state.py"
BESIDE = "tests/integration/pg/freeze/test_freeze_beside.py"
ESCAPES = "tests/integration/pg/freeze/test_freeze_escapes.py"
TWO = "tests/integration/coordinator/restarts/test_two_coordinators.py"
REPLACED = "tests/integration/coordinator/restarts/test_replaced_coordinator.py"
DURING = "tests/unit/coordinator/test_commands_during_switchover.py"
SWITCHING = "tests/unit/coordinator/operations/test_switching.py"
SWITCHING_RESTARTS = "tests/unit/coordinator/operations/test_switching_restarts.py"
UNFROZEN = "tests/integration/coordinator/operations/test_switchover_unfrozen.py"
UNREACHABLE = "tests/integration/coordinator/operations/test_unreachable_side.py"
FAILPOINTS = (
    "tests/integration/coordinator/operations/test_failpoints.py"
    "::test_coordinator_killed_at_a_failpoint_leaves_one_writable_side"
)
INTERRUPTED = "tests/integration/coordinator/operations/test_switchover_interrupted.py"
UNPUBLISHED = "tests/integration/coordinator/tables/test_unpublished_fence.py"
AFTER = "tests/integration/coordinator/operations/test_after_switchover.py"
FREEZE_PRIVILEGES = "tests/integration/pg/freeze/test_freeze_privileges.py"
UNDO = "tests/integration/coordinator/operations/test_undo.py"

MUTATIONS = (
    Mutation(
        "40 a freeze refuses all new sessions",
        "services/shared/pg/freeze/closed_database.py",
        "            await set_open(conn, database, accepts=False, side=side)",
        "            pass",
        f"{ESCAPES}::test_no_session_can_begin_after_the_freeze_not_even_a_superusers",
    ),
    Mutation(
        "40 sessions are exempt by process id",
        "services/shared/pg/freeze/sessions.py",
        '" AND a.pid <> ALL (%(spared)s)',
        "\" AND a.application_name NOT LIKE 'pgmig %%' AND a.pid <> ALL (%(spared)s)",
        f"{ESCAPES}::test_session_that_begins_during_the_freeze_writes_nothing",
    ),
    Mutation(
        "40 sessions whose properties are hidden are terminated, too",
        "services/shared/pg/freeze/sessions.py",
        '" AND coalesce(a.backend_start <= pg_catalog.to_timestamp(%(moment)s), true)"',
        '" AND a.backend_start <= pg_catalog.to_timestamp(%(moment)s)"',
        f"{ESCAPES}::test_sessions_of_another_role_are_ended_at_the_freeze",
    ),
    Mutation(
        "40 no prepared transactions are left",
        "services/shared/pg/freeze/source.py",
        "if not prepared and set(present)",
        "if set(present)",
        f"{ESCAPES}::test_prepared_transaction_holds_the_freeze_up_and_is_named",
    ),
    Mutation(
        "40 the switchover is rolled back if somebody opened the source",
        "services/coordinator/operations/switchover_steps.py",
        "    if await freeze.opened():",
        "    if False:",
        f"{INTERRUPTED}::test_source_that_accepts_connections_again_rolls_the_switchover_back",
    ),
    Mutation(
        "40 the switchover is rolled back if the source was opened and closed again",
        "services/shared/pg/freeze/source.py",
        "        return await row_version(self._side, database, self._where) != self._closed_version",
        "        return False",
        f"{INTERRUPTED}::test_source_that_accepts_connections_again_rolls_the_switchover_back",
    ),
    Mutation(
        "40 the proof of the rights opens no closed source",
        "services/shared/pg/freeze/source.py",
        "async with side.transaction(force_rollback=True):",
        "async with side.transaction():",
        f"{BESIDE}::test_freeze_that_is_opened_beside_another_one_changes_nothing",
    ),
    Mutation(
        "40 the proof of the rights keeps the freeze's default",
        "services/shared/pg/freeze/source.py",
        "async with admin.transaction(force_rollback=True):",
        "async with admin.transaction():",
        f"{BESIDE}::test_freeze_that_is_opened_beside_another_one_changes_nothing",
    ),
    Mutation(
        "40 ending sessions again does not hide that the source was opened",
        "services/shared/pg/freeze/source.py",
        "        if not self._closed_version:",
        "        if True:",
        f"{BESIDE}::test_database_that_was_opened_between_two_checks_counts_as_opened",
    ),
    Mutation(
        "42 no switchover begins while a dry run proves the rights",
        "services/coordinator/operations/dry_run.py",
        "        async with self._exclusive():",
        "        if True:",
        f"{DURING}::test_dry_run_proves_the_rights_only_while_no_switchover_can_begin",
    ),
    Mutation(
        "40 the first large object may be created before the freeze begins",
        "services/coordinator/operations/switchover.py",
        "if run.unpublished or await unpublished.any_on_source(run.context, freeze):",
        "if run.unpublished:",
        f"{INTERRUPTED}::test_first_large_object_created_during_the_freeze_arrives",
    ),
    Mutation(
        "41 changes after the sentinel",
        "services/coordinator/operations/fence.py",
        "    if applied.changes:",
        "    if False:",
        "tests/integration/coordinator/operations/test_behind_the_sentinel.py",
    ),
    Mutation(
        "41 late writes are an alarm",
        "services/shared/pg/replication/late_writes.py",
        "AND c.lsn > {after})",
        "AND c.lsn < {after})",
        f"{AFTER}::test_old_source_is_closed_until_it_is_unfrozen_and_late_writes_are_an_alarm",
    ),
    Mutation(
        "41 a query that decodes its limit of changes proves nothing",
        "services/shared/pg/replication/late_writes.py",
        "            if rows or -looked_at < LOOKED_AT_MOST:",
        "            if True:",
        f"{AFTER}::test_late_writes_are_found_after_more_changes_than_one_check_decodes",
    ),
    Mutation(
        "42 an undo writes the record by compare-and-set first",
        "services/coordinator/operations/undo.py",
        "        await context.journal.claim()\n",
        "",
        f"{UNDO}::test_undo_wins_its_compare_and_set_before_it_thaws",
    ),
    Mutation(
        "42 a thaw terminates the sessions of the freeze first",
        "services/shared/pg/freeze/thaw.py",
        '    await end_own(conn, others, f"an earlier freeze of the {before.side}")\n',
        "",
        "tests/integration/coordinator/restarts/test_two_coordinators.py",
    ),
    Mutation(
        "42 a claim needs no disk",
        "services/coordinator/migration/journal.py",
        '        FENCED and BROKER."""\n        async with self._lock:\n',
        '        FENCED and BROKER."""\n        async with self._lock:\n            await self._write()\n',
        f"{UNDO}::test_undo_opens_the_source_although_the_state_file_cannot_be_written",
    ),
    Mutation(
        "42 a refused coordinator remains refused",
        "services/shared/bus/store.py",
        "            if head in ours:\n                self._revisions[key] = revision\n",
        "            self._revisions[key] = revision\n            if head in ours:\n",
        "tests/integration/bus/test_store.py::test_second_coordinator_fences_the_first",
    ),
    Mutation(
        "42 sequences are set by the coordinator that claimed them last",
        "services/shared/pg/catalog/sequences.py",
        "AND claim = %s FOR UPDATE",
        "AND %s <> '' FOR UPDATE",
        f"{TWO}::test_sequences_that_were_read_before_another_coordinators_are_not_set_after_them",
    ),
    Mutation(
        "42 the session that enables subscriptions is recorded",
        "services/shared/pg/freeze/thaw.py",
        "            await announce((await own_session(conn),))\n",
        "            pass\n",
        f"{TWO}::test_thaw_that_was_overtaken_enables_no_subscription",
    ),
    Mutation(
        "42 a coordinator recognizes its own deletion only until it has written the record again",
        "services/shared/bus/store.py",
        "                    self._deleting.discard(key)\n",
        "",
        "tests/integration/bus/test_store_deletion.py",
    ),
    Mutation(
        "42 a deleted record stays deleted",
        "services/shared/bus/store.py",
        "            if created == self._created:",
        "            if False:",
        "tests/integration/bus/test_store.py::test_a_key_that_another_coordinator_has_deleted_stays_deleted",
    ),
    Mutation(
        "42 commands open the source only after their compare-and-set succeeds",
        "services/coordinator/operations/undo.py",
        "        await context.journal.claim()\n",
        "",
        f"{UNDO}::test_replaced_coordinator_opens_no_source",
    ),
    Mutation(
        "42 a migration that was cleaned up leaves a mark",
        "services/coordinator/registry.py",
        "            if mark is not None and marked(record, mark):",
        "            if False:",
        f"{STALE_STATE}::test_migration_that_was_cleaned_up_is_not_brought_back_by_a_state_file",
    ),
    Mutation(
        "42 a migration's mark does not apply to a later one with the same id",
        "services/coordinator/registry.py",
        "if mark is not None and marked(record, mark):",
        "if mark is not None:",
        f"{STALE_STATE}::test_store_of_a_moment_between_two_migrations_of_an_id_does_not_remove_the_second_one",
    ),
    Mutation(
        "42 nothing is removed without a compare-and-set",
        "services/coordinator/operations/teardown.py",
        "            await contexts[0].journal.confirm()\n            removed += await piece.remove()",
        "            removed += await piece.remove()",
        f"{REPLACED}::test_a_migration_that_is_taken_over_is_not_removed",
    ),
    Mutation(
        "42 cleanup by force is refused to a coordinator that was replaced",
        "services/coordinator/operations/teardown.py",
        "            if exc.kind is ErrorKind.FENCED or not (force or",
        "            if not (force or",
        f"{REPLACED}::test_a_migration_that_is_taken_over_is_not_removed",
    ),
    Mutation(
        "42 a coordinator that was replaced is refused before it changes anything",
        "services/coordinator/migration/journal.py",
        "            await self.confirm()\n",
        "            pass\n",
        f"{REPLACED}::test_commands_to_a_coordinator_that_was_replaced_are_refused",
    ),
    Mutation(
        "42 the next coordinator terminates sessions that copy large objects",
        "services/shared/pg/unpublished/fence.py",
        "        await end_earlier(conn, migration, confirm)\n",
        "",
        f"{UNPUBLISHED}::test_replaced_coordinator_that_was_writing_is_ended",
    ),
    Mutation(
        "42 a replaced coordinator copies no large objects",
        "services/shared/pg/unpublished/fence.py",
        "        await end_earlier(conn, migration, confirm)\n        await confirm()\n",
        "        await end_earlier(conn, migration, confirm)\n",
        f"{UNPUBLISHED}::test_replaced_coordinator_that_has_not_begun_to_write_is_refused",
    ),
    Mutation(
        "42 a default that somebody set during the freeze is kept",
        "services/shared/pg/freeze/thaw.py",
        "    if found in {value, FROZEN}:",
        "    if True:",
        f"{INTERRUPTED}::test_limits_and_settings_of_the_source_are_restored",
    ),
    Mutation(
        "43 the freeze is refused if a session cannot be terminated",
        "services/shared/pg/freeze/source.py",
        "            await check_endable(door, before.database, await freeze._spared(), side)\n",
        "",
        f"{FREEZE_PRIVILEGES}::test_sessions_of_superusers_refuse_the_freeze_of_a_role_that_may_not_end_them",
    ),
    Mutation(
        "43 the right to close the database is proven first",
        "services/shared/pg/freeze/source.py",
        "            await _prove_rights(admin, door, before)\n",
        "",
        f"{FREEZE_PRIVILEGES}::test_role_that_does_not_own_the_database_is_refused_before_anything_is_blocked",
    ),
    Mutation(
        "44 commands wait for the end of a switchover",
        "services/coordinator/commanded.py",
        "        if self.loop.switching.running:\n",
        "        if False:\n",
        DURING,
    ),
    Mutation(
        "45 an undo is retried until it succeeds",
        "services/coordinator/operations/undo.py",
        "        except Exception as exc:",
        "        except PgmigError as exc:",
        DURING,
    ),
    Mutation(
        "45 an undo reports what is open and what is left",
        "services/coordinator/operations/undo.py",
        "    if isinstance(error, StillDisabledError):",
        "    if False:",
        "tests/integration/coordinator/operations/test_thaw_details.py"
        "::test_undo_says_what_is_open_and_what_is_left",
    ),
    Mutation(
        "45 what delays the undo is reported",
        "services/coordinator/operations/undo.py",
        "            on_failure=lambda error: _report_failure(context, error),\n",
        "",
        f"{INTERRUPTED}::test_stopped_locking_session_rolls_back",
    ),
    Mutation(
        "46 the next coordinator reports a decided switchover as succeeded",
        "services/coordinator/operations/switching.py",
        "        if migration.decided_last:\n            result =",
        "        if migration.removed:\n            result =",
        f"{FAILPOINTS}[switchover.decided=kill]",
    ),
    Mutation(
        "46 how to undo the freeze is stored before it begins",
        "services/coordinator/operations/switchover.py",
        "                await run.context.journal.save(strict=True)\n                await at_point",
        "                await at_point",
        f"{FAILPOINTS}[switchover.locked=kill]",
    ),
    Mutation(
        "47 a switchover whose decision is being stored is not cancelled",
        "services/coordinator/operations/switching.py",
        "        decided = self._feed.deciding or ",
        "        decided = ",
        f"{SWITCHING}::test_switchover_whose_decision_is_being_stored_cannot_be_cancelled",
    ),
    Mutation(
        "47 a repeated request is the same operation",
        "services/coordinator/operations/switching.py",
        "        if known is not None:\n",
        "        if False:\n",
        f"{SWITCHING}::test_same_request_id_is_the_same_operation_also_after_its_end",
    ),
    Mutation(
        "47 the next coordinator does not begin a switchover after its timeout",
        "services/coordinator/operations/switching.py",
        "        elif operation.held or operation.left_s(time.time()) > 0:\n",
        "        elif operation:\n",
        f"{SWITCHING_RESTARTS}::test_next_coordinator_does_not_begin_after_the_timeout",
    ),
    Mutation(
        "47 a cancelled switchover is undone",
        "services/coordinator/operations/switchover.py",
        "    stopped = isinstance(exc, asyncio.CancelledError) and not _cancelled(migration)\n",
        "    stopped = isinstance(exc, asyncio.CancelledError)\n",
        f"{SWITCHING}::test_cancelled_switchover_is_undone_and_is_no_failure",
    ),
    Mutation(
        "58 cleanup keeps a migration of which something is left",
        "services/coordinator/operations/teardown.py",
        "    if left and not force:\n",
        "    if False:\n",
        f"{UNREACHABLE}::test_cleanup_of_a_paused_migration_ends_it_even_if_something_is_left[source]",
    ),
    Mutation(
        "58 a migration that cleanup has begun to remove cannot be resumed",
        "services/coordinator/endings.py",
        "            if not (migration.phase.ended or (force and migration.in_switchover)):\n",
        "            if False:\n",
        f"{UNREACHABLE}::test_cleanup_of_a_paused_migration_ends_it_even_if_something_is_left[source]",
    ),
    Mutation(
        "58 abort does not leave the source frozen",
        "services/coordinator/operations/teardown.py",
        "        if piece.things == FREEZE:",
        "        if False:",
        "tests/integration/coordinator/operations/test_undo.py"
        "::test_abort_does_not_leave_a_source_frozen_that_cannot_be_reached",
    ),
    Mutation(
        "48 a switchover that blocks nobody refuses open transactions that write",
        "services/shared/pg/freeze/unfrozen.py",
        "        if open_ones := await self._writers():\n",
        "        if open_ones := '':\n",
        f"{UNFROZEN}::test_transaction_that_begins_to_write_behind_the_sentinel_is_refused",
    ),
)
