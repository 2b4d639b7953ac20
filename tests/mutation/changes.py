"""Mutations of the rules about the change stream and how it is applied (1 to 8, 10 to 15, 19)."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

BATCHES = "tests/unit/wire/test_batches.py"
FULL_STREAM = "tests/integration/decoder/test_full_stream.py"
PROGRESS_ROW = "tests/integration/pg/apply/test_progress_row.py"
STALE_STATE = "tests/integration/coordinator/restarts/test_stale_state.py"
VERSIONS = "tests/e2e/test_source_versions.py"
CHANGES = "tests/integration/pipeline/test_changes.py"
CONFIRMED_POSITION = "tests/integration/pipeline/test_confirmed_position.py"
INTERRUPTIONS = "tests/integration/pipeline/test_interruptions.py"
GAPS = "tests/integration/pipeline/test_gaps.py"
REFUSED_CHANGES = "tests/integration/pipeline/test_refused_changes.py"

MUTATIONS = (
    Mutation(
        "1 commit order",
        "services/applier/assembler.py",
        "self._skipping = begin.final_lsn < self._progress",
        "self._skipping = begin.xid < getattr(self, '_xid', 0); self._xid = begin.xid",
        f"{CHANGES}::test_commits_that_interleave_arrive_in_commit_order",
    ),
    Mutation(
        "2 the slot's confirmed position decides",
        "services/decoder/stream.py",
        "max(self._confirmed, self._flushed())",
        "max(self._confirmed, self._batcher.position)",
        f"{CONFIRMED_POSITION}::test_the_slot_is_confirmed_only_up_to_what_the_destination_has_flushed",
    ),
    Mutation(
        "3 exactly once",
        "services/shared/pg/apply/session.py",
        'self._held.append(Operation(_ORIGIN, (str(end).encode(), b"%d" % commit_time_us)))',
        "pass",
        f"{INTERRUPTIONS}::test_restarts_of_both_sides_neither_lose_nor_repeat",
    ),
    Mutation(
        "3 progress in a row",
        "services/shared/pg/apply/session.py",
        "self._held.append(Operation(_PROGRESS_ROW, (str(self._pipeline).encode(), str(end).encode())))",
        "pass",
        f"{PROGRESS_ROW}::test_killed_sessions_neither_lose_nor_repeat",
    ),
    Mutation(
        "3 a row of progress belongs to one session",
        "services/shared/pg/apply/fence.py",
        "    if row is None or not row[0]:\n        return False",
        "    if row is None:\n        return False",
        f"{PROGRESS_ROW}::test_two_sessions_never_share_the_progress",
    ),
    Mutation(
        "3 progress stays in the row or origin in which it began",
        "services/shared/pg/apply/progress.py",
        "    if await row_progress(conn, pipeline) is not None:",
        "    if False:",
        f"{PROGRESS_ROW}::test_progress_stays_in_the_row_or_origin_where_it_began",
    ),
    Mutation(
        "3 exactly once, also for runs of transactions",
        "services/shared/pgoutput/rows.py",
        "        if final_lsn < floor:",
        "        if False:",
        f"{BATCHES}::test_a_run_begins_after_what_is_already_applied",
    ),
    Mutation(
        "4 gaps are refused",
        "services/applier/assembler.py",
        "batch.previous_lsn > self.progress:",
        "False:",
        f"{GAPS}::test_a_slot_moved_beyond_progress_is_a_gap",
    ),
    Mutation(
        "4 the recorded source",
        "services/decoder/slot.py",
        "if recorded != found:",
        "if False:",
        f"{GAPS}::test_another_source_under_the_same_address_is_refused",
    ),
    Mutation(
        "4 a promoted source is not read any more",
        "services/coordinator/pipeline/credentials.py",
        "if found.timeline == slot.timeline or (found.has_slot and slot.timeline in found.ends):",
        "if found.timeline:",
        "tests/integration/coordinator/test_promoted_source.py",
    ),
    Mutation(
        "5 whole transactions",
        "services/applier/writer.py",
        "        if not group[-1].transactions:\n            return\n        last",
        "        if not group[-1].transactions:\n"
        "            self._session.commit(self._session.progress, 0)\n"
        "            return\n        last",
        f"{CHANGES}::test_a_large_transaction_is_atomic_and_complete",
    ),
    Mutation(
        "6 keepalives do not prove that changes were applied",
        "services/decoder/batcher.py",
        "if self.in_transaction or self.pending or wal_end < self.position",
        "if wal_end < self.position",
        f"{BATCHES}::test_a_heartbeat_waits_for_what_is_under_way",
    ),
    Mutation(
        "7 the sentinel",
        "services/applier/writer.py",
        "            await self._session.send_commit()\n            await self._session.await_flush()\n",
        "",
        "tests/unit/applier/test_writer.py::test_a_sentinel_counts_when_its_transaction_is_on_disk",
    ),
    Mutation(
        "7 a sentinel's commit without rows writes WAL",
        "services/shared/pg/apply/session.py",
        "head += [Operation(_DURABLE, ()), Operation(_WRITE_WAL, ())]",
        "head += [Operation(_DURABLE, ())]",
        "tests/integration/pg/apply/test_session.py::test_durable_commit_without_rows_is_on_disk_at_once",
    ),
    Mutation(
        "7 a sentinel's commit waits for the disk",
        "services/shared/pg/apply/session.py",
        "Operation(_DURABLE, ()), Operation(_WRITE_WAL, ())",
        "Operation(_DURABLE, ()), Operation(_ASSIGN_XID, ())",
        "tests/integration/pg/apply/test_session.py::test_durable_commit_without_rows_is_on_disk_at_once",
    ),
    Mutation(
        "7 the sentinel's position, if no message is sent",
        "services/coordinator/operations/switchover_steps.py",
        "return following.flushed >= run.sentinel",
        "return True",
        f"{VERSIONS}::test_switchover_waits_for_what_was_committed_before_the_freeze[from-10]",
    ),
    Mutation(
        "7 messages, if the source supports them",
        "services/shared/pg/replication/stream_options.py",
        "if server_version_num >= MESSAGES_SINCE:",
        "if True:",
        "tests/unit/pg/replication/test_stream_options.py::test_messages_are_asked_for_where_they_are_known",
    ),
    Mutation(
        "8 snapshot and slot",
        "services/decoder/slot.py",
        "await snapshots.adopt(exported, consistent)",
        "await snapshots.adopt(None, consistent)",
        "tests/integration/decoder/test_slot.py::test_the_first_snapshot_is_the_slots_own",
    ),
    Mutation(
        "10 values are bytes",
        "services/shared/pg/apply/target_table.py",
        "for i in self.inserted if new[i] is not UNCHANGED and not self.columns",
        "for i in self.inserted if new[i] is not None and new[i] is not UNCHANGED and not self.columns",
        f"{CHANGES}::test_null_and_empty_and_unchanged_are_three_things",
    ),
    Mutation(
        "10 long values are cut between characters",
        "services/shared/pg/apply/long_values.py",
        "if data[at] & 0xC0 != 0x80",
        "if True",
        "tests/integration/pg/apply/test_long_values.py::test_long_values_of_every_kind_of_type_arrive",
    ),
    Mutation(
        "11 no set statements for rows that share a key",
        "services/shared/pg/apply/relation_match.py",
        " or (bool(where) and not any(one <= key for one in unique))",
        "",
        f"{REFUSED_CHANGES}::test_a_key_that_rows_share_does_not_hide_a_missing_one",
    ),
    Mutation(
        "11 zero rows matched",
        "services/shared/pg/apply/session.py",
        "if operation.rows is not None and count != operation.rows:",
        "if False:",
        f"{REFUSED_CHANGES}::test_update_of_a_missing_row_stops_the_pipeline",
    ),
    Mutation(
        "12 stop, never skip",
        "services/applier/writer.py",
        "                await self._apply_alone(one)\n",
        "                try:\n"
        "                    await self._apply_alone(one)\n"
        "                except PgmigError:\n"
        "                    await self._session.rollback()\n"
        "                    continue\n",
        f"{REFUSED_CHANGES}::test_a_refused_change_stops_the_pipeline_at_its_transaction",
    ),
    Mutation(
        "12 a refused change is not committed",
        "services/applier/writer.py",
        "            self._under_way = None\n            await self._write_again(group, exc)\n",
        "            self._under_way = None\n",
        f"{REFUSED_CHANGES}::test_a_refused_change_stops_the_pipeline_at_its_transaction",
    ),
    Mutation(
        "12 only the named transaction is skipped",
        "services/applier/planner.py",
        "self._given_up = commit_lsn in self._skip",
        "self._given_up = commit_lsn >= min(self._skip, default=1 << 64)",
        f"{REFUSED_CHANGES}::test_a_skipped_transaction_is_left_out_completely_and_no_other_one",
    ),
    Mutation(
        "13 batching does not change the result",
        "services/applier/pending.py",
        "self._rows[key] = (before[0], _merged(before[1], new))",
        "self._rows[key] = (before[0], new)",
        "tests/unit/applier/test_compact.py::test_the_net_effect_is_the_effect_of_the_steps",
    ),
    Mutation(
        "14 bounded memory",
        "services/applier/chunks.py",
        "while self._chunks and self._bytes + size > self._capacity:",
        "while False:",
        "tests/unit/applier/test_writer.py::test_a_full_queue_makes_the_reader_wait",
    ),
    Mutation(
        "14 a long value is sent in fragments",
        "services/shared/pg/apply/long_values.py",
        "LONG = 4 << 20",
        "LONG = 4 << 40",
        "tests/integration/pipeline/test_memory.py::test_a_bytea_of_a_hundred_megabytes",
    ),
    Mutation(
        "14 a large row is stored in a file",
        "services/shared/wire/joining.py",
        "SPOOLED = 8 << 20",
        "SPOOLED = 8 << 40",
        "tests/integration/pipeline/test_memory.py::test_a_bytea_of_a_hundred_megabytes",
    ),
    Mutation(
        "14 a full stream loses nothing",
        "services/shared/bus/change_writer.py",
        "discard=api.DiscardPolicy.NEW,",
        "discard=api.DiscardPolicy.OLD,",
        f"{FULL_STREAM}::test_a_destination_stalled_beyond_the_sender_timeout_loses_nothing",
    ),
    Mutation(
        "14 messages after the first refused one are sent again",
        "services/shared/bus/change_writer.py",
        "        for item in others:\n            await self._send(item.data, item.headers)",
        "        del others",
        f"{FULL_STREAM}::test_a_destination_stalled_beyond_the_sender_timeout_loses_nothing",
    ),
    Mutation(
        "14 a transaction that never fits is reported",
        "services/decoder/stream.py",
        "if in_vain(before, now):",
        "if False:",
        f"{FULL_STREAM}::test_a_transaction_larger_than_the_stream_fails_until_the_cap_is_raised",
    ),
    Mutation(
        "14 the decoder waits for space that the applier can still release",
        "services/decoder/space.py",
        "return self.first.end_lsn == self.last.end_lsn <= self.flushed",
        "return True",
        "tests/unit/decoder/test_stream_space.py::test_what_is_not_flushed_or_not_trimmed_yet_may_still_make_space",
    ),
    Mutation(
        "14 a TRUNCATE of many tables is sent in several messages",
        "services/decoder/batcher.py",
        "                if self._size >= self._target and (batch := self._end()) is not None:",
        "                if False and (batch := self._end()) is not None:",
        f"{CHANGES}::test_a_truncate_of_more_than_a_message_holds",
    ),
    Mutation(
        "14 a stream may begin inside a row that was trimmed",
        "services/applier/assembler.py",
        "            self._frames.begin_inside()",
        "            pass",
        f"{BATCHES}::test_a_reader_that_restarts_anywhere_passes_over_what_it_has",
    ),
    Mutation(
        "15 the bus is untrusted",
        "services/shared/wire/changes.py",
        "if crc32(wire.payload) != wire.crc32:",
        "if False:",
        f"{BATCHES}::test_damaged_payloads_are_refused_by_the_checksum",
    ),
    Mutation(
        "19 records of two migrations",
        "services/coordinator/migration/record.py",
        "    if not same_migration(record, other):",
        "    if False:",
        f"{STALE_STATE}::test_file_of_an_earlier_migration_of_the_same_id_is_not_continued",
    ),
    Mutation(
        "19 records of two coordinators",
        "services/coordinator/migration/record.py",
        "    return (record.term, record.revision) > (other.term, other.revision)",
        "    return record.revision > other.revision",
        f"{STALE_STATE}::test_file_of_a_coordinator_that_was_replaced_does_not_undo_what_the_next_one_did",
    ),
)
