"""Mutations of the rules about sides that are both written to (75 to 79)."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

CONVERGENCE = "tests/unit/model/conflicts/test_convergence.py"
MARKS = "tests/unit/decoder/test_marks.py"
DELETIONS = "tests/integration/pg/bidirectional/test_deletions.py"
CONFLICTS = "tests/integration/pipeline/test_conflicts.py"
LOAD = "tests/property/test_conflicting_load.py"
BOTH = "tests/integration/coordinator/test_bidirectional.py"

MUTATIONS = (
    Mutation(
        "75 what a transaction has seen is older, whatever the clocks say",
        "services/shared/model/conflicts/resolution.py",
        "if local.changed_at is None or local.changed_at <= remote.seen:",
        "if local.changed_at is None:",
        "tests/unit/model/conflicts/test_resolution.py",
    ),
    Mutation(
        "75 only what was not seen is a conflict",
        "services/shared/model/conflicts/resolution.py",
        "unseen = local.changed_at is not None and local.changed_at > remote.seen",
        "unseen = local.changed_at is not None",
        "tests/unit/model/conflicts/test_resolution.py",
    ),
    Mutation(
        "75 both sides decide a tie for the same one",
        "services/shared/model/conflicts/resolution.py",
        "return Decision.APPLIED if receiving is Direction.FORWARD else Decision.KEPT",
        "return Decision.KEPT",
        CONVERGENCE,
    ),
    Mutation(
        "75 an insert may be older than a deletion",
        "services/shared/model/conflicts/resolution.py",
        "return ConflictKind.INSERT_DELETED if unseen else None",
        "return None",
        CONVERGENCE,
    ),
    Mutation(
        "76 a mark comes before the changes of its transaction",
        "services/decoder/batcher.py",
        "if self._skipping or self._foreign or self._missing or self._marks.due:",
        "if self._skipping or self._foreign or self._missing:",
        f"{MARKS}::test_a_local_transaction_has_seen_what_was_committed_here_before_it",
    ),
    Mutation(
        "76 no source can send a mark",
        "services/decoder/batcher.py",
        "            and not is_mark(message)\n",
        "",
        f"{MARKS}::test_no_source_can_send_a_mark",
    ),
    Mutation(
        "76 a heartbeat carries what was applied",
        "services/decoder/batcher.py",
        "            seen=self._marks.heartbeat(),\n",
        "",
        f"{MARKS}::test_a_heartbeat_carries_what_no_local_transaction_could",
    ),
    Mutation(
        "77 rows are looked up before they are written",
        "services/applier/writer.py",
        "                operations = await self._conflicts.operations(group, operations, write)",
        "                write([])",
        f"{CONFLICTS}::test_the_last_update_wins_on_both_sides",
    ),
    Mutation(
        "77 a row of the other side is no conflict",
        "services/shared/pg/apply/key_states.py",
        "c.roident <> {}::pg_catalog.oid)",
        "(c.roident <> {}::pg_catalog.oid) IS NOT NULL)",
        f"{CONFLICTS}::test_changes_in_turn_are_no_conflict",
    ),
    Mutation(
        "77 what is not known whole is not applied",
        "services/applier/conflicts/resolving.py",
        "if local.exists and self._policy is OnConflict.APPLY_REMOTE:",
        "if local.exists:",
        "tests/unit/applier/conflicts/test_resolving.py",
    ),
    Mutation(
        "77 a row counts as the other side's once it is written",
        "services/applier/conflicts/resolving.py",
        "            self._states[before] = Local(True)\n        else:\n            self._put(before",
        "        else:\n            self._put(before",
        "tests/unit/applier/conflicts/test_resolving.py",
    ),
    Mutation(
        "78 deletions are recorded where they are looked up",
        "services/shared/pg/bidirectional/deletions.py",
        "pg_catalog.pg_partition_ancestors(TG_RELID) AS of (oid)",
        "(VALUES (0::pg_catalog.oid)) AS of (oid)",
        DELETIONS,
    ),
    Mutation(
        "78 a key reads the same whatever the application has set",
        "services/shared/pg/bidirectional/deletions.py",
        " SET datestyle = 'ISO, MDY'",
        "",
        f"{DELETIONS}::test_deletions_and_changes_of_keys_are_recorded",
    ),
    Mutation(
        "78 an application's statements go on when the records are removed",
        "services/shared/pg/reverse/remove.py",
        "    await ignore_deletions(conn, pipeline, time.monotonic() + RELEASE_WAIT_S)\n",
        "",
        f"{CONFLICTS}::test_nothing_fails_after_the_pipeline_is_removed",
    ),
    Mutation(
        "79 a row that was changed after both sides were opened may conflict",
        "services/coordinator/pipeline/staffing.py",
        "options.on_conflict if record.seen_us else None,",
        "None,",
        f"{BOTH}::test_two_changes_of_one_row_stop_both_directions_unless_the_operator_chose_otherwise[17-18]",
    ),
    Mutation(
        "79 decoders tell what the other side had seen",
        "services/coordinator/pipeline/staffing.py",
        "sends_seen=options.bidirectional,",
        "sends_seen=False,",
        f"{BOTH}::test_two_changes_of_one_row_stop_both_directions_unless_the_operator_chose_otherwise[17-18]",
    ),
    Mutation(
        "79 the destination stays read-only until it is stored that both pipelines work",
        "services/coordinator/operations/both_ways.py",
        "    await context.journal.confirm()\n    migration.both_opened",
        "    await lift(context)\n    migration.both_opened",
        f"{BOTH}::test_destination_refuses_writers_until_both_sides_are_open[17-18]",
    ),
    Mutation(
        "79 finalize waits for what each side has committed",
        "services/coordinator/operations/both_ways.py",
        "    await asyncio.gather(*arriving)\n",
        "    [one.close() for one in arriving]\n",
        f"{BOTH}::test_finalize_waits_until_each_side_has_what_the_other_one_had_committed[17-18]",
    ),
    Mutation(
        "79 each side may go on alone with its sequences",
        "services/coordinator/operations/both_ways.py",
        "        return await join_sequences(source, destination, forward.pipeline.id, names)\n",
        "        return ()\n",
        f"{BOTH}::test_disjoint_load_on_both_sides_ends_equal[17-18]",
    ),
    Mutation(
        "79 what cannot be written to on both sides is refused at the start",
        "services/coordinator/registry.py",
        "    if not options.bidirectional:\n",
        "    if True:\n",
        f"{BOTH}::test_everything_in_the_way_is_said_at_the_start",
    ),
)
