"""Mutations of the rules about tables, their copy, partitions and identities (9, 16 to 18, 20 to 24)."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

BEGIN_COPY = "tests/unit/coordinator/tables/test_begin_copy.py"
PARTITIONS = "tests/integration/pg/catalog/test_partitions.py"
COPY_PARTS = "tests/integration/pg/copy/test_copy_parts.py"
VERSIONS = "tests/e2e/test_source_versions.py"
ALTERED = "tests/e2e/tables/test_partitions_altered.py"
PARTED = "tests/integration/coordinator/tables/test_parted_partitions.py"
BROKEN_OFF = "tests/integration/coordinator/tables/test_tables_broken_off.py"
CHANGES = "tests/integration/pipeline/test_changes.py"

MUTATIONS = (
    Mutation(
        "9 changes below a table's floor are skipped",
        "services/applier/planner.py",
        "return any(self._commit_lsn < self._floors[name].value for name in names if name in self._floors)",
        "return False",
        f"{CHANGES}::test_changes_below_a_tables_floor_are_in_its_copy",
    ),
    Mutation(
        "9 parts of an abandoned plan",
        "services/shared/pg/bookkeeping/copy_ledger.py",
        "    WHERE coalesce(({plan} FOR SHARE), '') = {epoch}",
        "",
        "tests/integration/pg/copy/test_copy_parts.py::test_a_part_whose_plan_was_replaced_during_the_copy_cannot_commit",
    ),
    Mutation(
        "9 each table has a floor of its own",
        "services/applier/planner.py",
        "self._highest_floor = max(",
        "self._highest_floor = min(",
        f"{CHANGES}::test_changes_below_a_tables_floor_are_in_its_copy",
    ),
    Mutation(
        "9 tables that only an earlier snapshot shows",
        "services/coordinator/phases/schema.py",
        "    if earlier and pipeline.migration.record.options.follow:",
        "    if False:",
        "tests/e2e/tables/test_schema_changes_in_dump.py::test_the_schema_is_dumped_under_a_new_snapshot",
    ),
    Mutation(
        "16 an index waits for its table's rows",
        "services/coordinator/post_data/schedule.py",
        "if not self._all_complete and task.table not in self._complete:",
        "if False:",
        "tests/unit/coordinator/post_data/test_schedule.py::test_a_table_that_is_emptied_again_waits_again",
    ),
    Mutation(
        "16 foreign keys wait for rows of one snapshot",
        "services/coordinator/phases/indexes.py",
        "    if target:",
        "    if False:",
        "tests/integration/coordinator/phases/test_indexes_during_copy.py"
        "::test_complete_tables_get_their_indexes_while_another_is_copied[decoder]",
    ),
    Mutation(
        "17 partitions are compared down to their bounds",
        "services/shared/pg/catalog/partitions.py",
        "    if any(ways[0][table] != ways[1][table] for table in shared):",
        "    if False:",
        f"{PARTITIONS}::test_partitions_are_compared_down_to_their_bounds",
    ),
    Mutation(
        "17 changes of a row that moves between partitions stay in order",
        "services/applier/planner.py",
        "            if oid in self._leaves\n            and other",
        "            if False\n            and other",
        f"{PARTITIONS}::test_rows_that_move_with_their_key_are_written_as_sets",
    ),
    Mutation(
        "17 TRUNCATE of one partition",
        "services/applier/planner.py",
        "        self._check_roots_whole(oids)\n",
        "",
        f"{PARTITIONS}::test_the_truncation_of_one_partition_is_not_passed_over",
    ),
    Mutation(
        "18 TRUNCATE on a source that does not replicate it",
        "services/coordinator/operations/switchover_steps.py",
        "        await check_truncated(freeze.session, conn, files, routes, migration.id)\n",
        "",
        f"{VERSIONS}::test_truncate_is_replicated_or_stops_the_switchover[from-10]",
    ),
    Mutation(
        "18 relation files of tables that are added later",
        "services/coordinator/tables/to_copy.py",
        "                _note_files(context.pipeline, identities, leaves)",
        "                pass",
        f"{VERSIONS}::test_truncate_of_an_added_table_is_replicated_or_stops_the_switchover[from-10]",
    ),
    Mutation(
        "18 relation files are recorded before the slot",
        "services/shared/pg/replication/truncation.py",
        "pg_catalog.pg_relation_filenode(c.oid)::bigint",
        "c.oid::bigint",
        f"{VERSIONS}::test_truncate_is_replicated_or_stops_the_switchover[from-10]",
    ),
    Mutation(
        "20 a part's table has the relation file that the snapshot shows",
        "services/shared/pg/copy/snapshot.py",
        "    if (there.oid, there.file, shown) != (oid, file, numbers):",
        "    if (there.oid, shown) != (oid, numbers):",
        f"{COPY_PARTS}::test_a_table_that_is_not_what_the_snapshot_shows_is_not_copied",
    ),
    Mutation(
        "20 a part's columns are those that the snapshot shows",
        "services/shared/pg/copy/snapshot.py",
        "    if (there.oid, there.file, shown) != (oid, file, numbers):",
        "    if (there.oid, there.file) != (oid, file):",
        f"{COPY_PARTS}::test_a_table_that_is_not_what_the_snapshot_shows_is_not_copied",
    ),
    Mutation(
        "20 partitions of a root that is one part",
        "services/shared/pg/copy/snapshot.py",
        "    if row is not None and row[0] is False:",
        "    if False:",
        f"{COPY_PARTS}::test_partitions_of_a_root_that_is_one_part_are_what_the_snapshot_shows",
    ),
    Mutation(
        "21 a table created again on the destination is noticed",
        "services/coordinator/tables/to_copy.py",
        "                await note_destinations(conn, key,",
        "                await note_destinations(conn, key.migration.reverse,",
        "tests/e2e/tables/test_tables_replaced.py::test_a_table_recreated_on_the_destination_is_named",
    ),
    Mutation(
        "21 another table under the same name",
        "services/shared/model/tables/identity.py",
        "    if now.oid != before.oid:",
        "    if False:",
        "tests/unit/model/tables/test_table_identity.py::test_each_change_of_a_table_is_described_with_its_remedy",
    ),
    Mutation(
        "21 a table that was not in the publication for a while",
        "services/shared/model/tables/identity.py",
        "    if now.published != before.published or",
        "    if",
        "tests/unit/model/tables/test_table_identity.py::test_each_change_of_a_table_is_described_with_its_remedy",
    ),
    Mutation(
        "21 rows that were rewritten",
        "services/shared/model/tables/identity.py",
        "    if altered and (now.file != before.file or _names_reused(before, now)):",
        "    if altered and _names_reused(before, now):",
        "tests/unit/model/tables/test_table_identity.py::test_each_change_of_a_table_is_described_with_its_remedy",
    ),
    Mutation(
        "21 a forgotten table is recorded before its bookkeeping is deleted",
        "services/coordinator/tables/adopt.py",
        """    await context.journal.save()
    await forget_copies(destination, pipeline.id, tables, identities=True)
""",
        """    await forget_copies(destination, pipeline.id, tables, identities=True)
    await context.journal.save()
""",
        f"{BROKEN_OFF}::test_a_dropped_table_is_forgotten_again_by_the_next_coordinator",
    ),
    Mutation(
        "21 the next coordinator completes the removal of a dropped table",
        "services/coordinator/tables/adopt.py",
        "    by_own_name |= {one.table for one in pipeline.record.dropped}",
        "    by_own_name |= set()",
        f"{BROKEN_OFF}::test_a_dropped_table_is_forgotten_again_by_the_next_coordinator",
    ),
    Mutation(
        "22 a copy begins with a new applier",
        "services/coordinator/tables/adopt.py",
        "began_copy(tables, dropped, secrets.token_hex(8))",
        "began_copy(tables, dropped, pipeline.record.applier_epoch)",
        f"{BEGIN_COPY}::test_the_record_forgets_what_the_new_copies_replace",
    ),
    Mutation(
        "22 a copy begins at once",
        "services/coordinator/tables/adopt.py",
        "def begin_copy(",
        "async def begin_copy(",
        f"{BEGIN_COPY}::test_the_phase_is_copy_before_any_other_task_runs",
    ),
    Mutation(
        "22 an earlier applier is refused",
        "services/shared/pg/apply/fence.py",
        "    if known != epoch:",
        "    if False:",
        "tests/integration/coordinator/tables/test_resync.py::test_an_earlier_applier_is_ended_and_cannot_return",
    ),
    Mutation(
        "23 a partition that is detached keeps no rows in its root",
        "services/coordinator/tables/routed.py",
        "    return {leaf: root for leaf, root in roots.items() if tops.get(leaf) != root}",
        "    return {}",
        f"{PARTED}::test_a_detached_partition_stops_until_both_are_copied_again",
    ),
    Mutation(
        "23 the floor of a root is that of its partitions",
        "services/coordinator/tables/routed.py",
        "        await _keep_floors(context, divided)",
        "        pass",
        f"{PARTED}::test_what_a_root_has_got_with_its_copy_is_not_applied_to_partitions_again",
    ),
    Mutation(
        "23 a root without partitions is emptied",
        "services/coordinator/tables/to_copy.py",
        "    bare = set(roots) - set(tops.values())",
        "    bare = set()",
        f"{PARTED}::test_a_root_without_partitions_is_empty_when_it_is_copied_again",
    ),
    Mutation(
        "23 a partition that is attached comes with its root",
        "services/coordinator/tables/adopt.py",
        "        if roots := [table for table in copy if table not in seen.added()]:",
        "        if roots := []:",
        f"{PARTED}::test_an_attached_partition_comes_with_its_root",
    ),
    Mutation(
        "24 a root is altered after its detached partitions have left it",
        "services/coordinator/tables/explain.py",
        "    detached = _detaching(destination, lines, targets)",
        "    detached = ()",
        f"{ALTERED}::test_the_root_is_altered_alone_where_partitions_are_published_one_by_one",
    ),
    Mutation(
        "24 a detached partition is altered separately",
        "services/shared/pg/catalog/partition_routes.py",
        "return table if self.leaves(table) else self.roots_there.get(table, table)",
        "return self.roots_there.get(table, table)",
        f"{ALTERED}::test_a_partition_that_is_detached_and_altered",
    ),
    Mutation(
        "24 the columns of a partition are those of its root",
        "services/coordinator/tables/explain.py",
        "                own_only=root != one.table and root in seen.known,\n",
        "",
        f"{ALTERED}::test_a_partition_that_is_attached_again_with_its_columns_in_another_order",
    ),
    Mutation(
        "24 columns of a root are added again with the rows of its partitions",
        "services/coordinator/tables/check.py",
        "statements, bool(again), first=first, leaves=again",
        "statements, False, first=first",
        f"{ALTERED}::test_a_root_whose_columns_are_in_another_order_on_the_destination",
    ),
)
