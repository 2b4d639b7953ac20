"""The mutations: which line each breaks, and which test must notice it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = "tests/integration/pipeline/test_pipeline.py"
BATCHES = "tests/unit/wire/test_batches.py"
PRIVATE = "tests/integration/clients/embedded/test_private.py"
RPC_LIMITS = "tests/contract/test_rpc_limits.py"
CHANNEL = "tests/integration/pg/transport/test_channel.py"
WORKER_SECRET = "tests/contract/test_worker_secret.py"
FULL_STREAM = "tests/integration/decoder/test_full_stream.py"
ENCODINGS = "tests/integration/coordinator/phases/test_encodings.py"
LOOSE_KEYS = "tests/integration/coordinator/phases/test_loose_keys.py"
IDENTITIES = "tests/integration/pg/catalog/test_identities.py"
RESYNC_IDENTITIES = "tests/integration/coordinator/tables/test_resync_identities.py"
BEGIN_COPY = "tests/unit/coordinator/tables/test_begin_copy.py"
OWNERS = "tests/integration/pg/preflight/test_owners_functions.py"
PARTITIONS = "tests/integration/pg/catalog/test_partitions.py"
PROGRESS_ROW = "tests/integration/pg/apply/test_progress_row.py"
COPY_PARTS = "tests/integration/pg/copy/test_copy_parts.py"
STALE_STATE = "tests/integration/coordinator/test_stale_state.py"
VERSIONS = "tests/e2e/test_source_versions.py"
ESCAPES = "tests/integration/pg/freeze/test_freeze_escapes.py"
TWO = "tests/integration/coordinator/test_two_coordinators.py"
CASTS = "tests/integration/pg/apply/test_hijacked_casts.py"
PARTED = "tests/integration/coordinator/tables/test_parted_partitions.py"
BROKEN_OFF = "tests/integration/coordinator/tables/test_tables_broken_off.py"
AMID = "tests/unit/coordinator/test_commands_amid_switchover.py"
AFTER = "tests/integration/coordinator/operations/test_after_switchover.py"


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
        "21 a table created again on the destination is noticed",
        "services/coordinator/tables/to_copy.py",
        "                await note_destinations(conn, key,",
        "                await note_destinations(conn, '',",
        "tests/e2e/test_tables_replaced.py::test_a_table_that_somebody_makes_anew_on_the_destination_is_named",
    ),
    Mutation(
        "S5 requests are bounded",
        "services/shared/rpc/channel.py",
        "_LONGEST_REQUEST = 4 * 1024 * 1024",
        "_LONGEST_REQUEST = 64 * 1024 * 1024",
        f"{RPC_LIMITS}::test_a_request_beyond_4_mb_is_refused",
    ),
    Mutation(
        "S5 what strangers begin a stream with is small",
        "services/shared/rpc/limits.py",
        "if most is not None and len(raw) > most:",
        "if False:",
        f"{RPC_LIMITS}::test_a_stream_begins_with_a_small_request",
    ),
    Mutation(
        "S14 a table is not left out by --skip-object",
        "services/shared/pg/schema/archive_selection.py",
        "if entry.dump_id in out and entry.kind in _TAKING_ROWS",
        "if False",
        "tests/unit/pg/schema/test_skipping_objects.py::test_tables_and_unknown_names_are_refused",
    ),
    Mutation(
        "S10 text is not structure",
        "services/shared/pg/schema/lexer.py",
        """_PLAIN = rb"(?:[^']|'')\"""",
        """_PLAIN = rb"(?:[^';]|'')\"""",
        "tests/unit/pg/schema/test_archive.py::test_quoted_text_is_one_token",
    ),
    Mutation(
        "S10 sections are fields of the archive",
        "services/shared/pg/schema/archive_sql.py",
        "parts = [entry.definition]",
        'parts = [entry.definition.split(b"--\\n-- Name: ")[-1]]',
        "tests/e2e/test_hostile_source.py::test_forged_entries_in_comments_create_no_superuser",
    ),
    Mutation(
        "S11 connection strings are never shown",
        "services/shared/pg/session/uri.py",
        'if authority.count("@") > 1 or "@" in rest[len(authority) :]:',
        "if authority.count('@') > 9:",
        "tests/unit/pg/session/test_uri.py::test_no_error_shows_any_of_a_connection_string",
    ),
    Mutation(
        "S11 redaction",
        "services/shared/model/redaction.py",
        """_IN_URI = re.compile(r"(://[^:/?#@\\s'\\"]*):\\S*@")""",
        """_IN_URI = re.compile(r"(://[^:/?#@\\s'\\"]*):[^@]*@")""",
        "tests/unit/pg/session/test_uri.py::test_redaction_hides_passwords_of_any_letters",
    ),
    Mutation(
        "S13 pg_dump with TLS",
        "services/shared/pg/schema/dump_tools.py",
        "usable = [tools for tools in found if not tls or await speaks_tls(tools.pg_dump)]",
        "usable = found",
        "tests/integration/pg/session/test_tls_verified.py::test_a_source_that_is_reached_with_tls_is_not_dumped_without",
    ),
    Mutation(
        "S13 parameters outlive the password",
        "services/shared/pg/session/uri.py",
        """if given.get("sslmode") in _WEAK_MODES and requires_tls(where):""",
        "if False:",
        "tests/unit/pg/session/test_uri.py::test_what_began_with_tls_goes_on_with_it_unless_told_otherwise",
    ),
    Mutation(
        "S12 libpq's parameters",
        "services/shared/pg/session/uri.py",
        "if name in _ALLOWED:",
        "if name in known:",
        "tests/unit/pg/session/test_uri.py::test_a_parameter_that_is_not_taken_is_named_without_its_value",
    ),
    Mutation(
        "S6 nothing is left behind the last answer",
        "services/shared/pg/copy/relay.py",
        "        if self.has_more:\n            while",
        "        if False:\n            while",
        f"{CHANNEL}::test_bytes_behind_the_last_answer_close_the_connection",
    ),
    Mutation(
        "S6 a channel is used while its connection is open",
        "services/shared/pg/transport/raw_connection.py",
        "    if lender.closed:",
        "    if False:",
        f"{CHANNEL}::test_connection_that_is_closed_under_a_channel_is_noticed",
    ),
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
        "services/shared/pg/apply/session.py",
        'self._held.append(Operation(_ORIGIN, (str(end).encode(), b"%d" % commit_time_us)))',
        "pass",
        f"{PIPELINE}::test_restarts_of_both_sides_neither_lose_nor_repeat",
    ),
    Mutation(
        "3 progress in a row",
        "services/shared/pg/apply/session.py",
        "self._held.append(Operation(_PROGRESS_ROW, (str(self._migration).encode(), str(end).encode())))",
        "pass",
        f"{PROGRESS_ROW}::test_killed_sessions_neither_lose_nor_repeat",
    ),
    Mutation(
        "3 a row of progress is one session's",
        "services/shared/pg/apply/fence.py",
        "    if row is None or not row[0]:\n        return False",
        "    if row is None:\n        return False",
        f"{PROGRESS_ROW}::test_two_sessions_never_share_the_progress",
    ),
    Mutation(
        "3 progress stays where it was begun",
        "services/shared/pg/apply/session.py",
        "    if await row_progress(conn, migration) is not None:",
        "    if False:",
        f"{PROGRESS_ROW}::test_progress_stays_where_it_was_begun",
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
        "if self.in_transaction or self.pending or wal_end <= self.position:",
        "if wal_end <= self.position:",
        f"{BATCHES}::test_a_heartbeat_waits_for_what_is_under_way",
    ),
    Mutation(
        "7 the sentinel",
        "services/applier/writer.py",
        "            await self._session.settle()\n            await self._session.await_flush()\n",
        "",
        "tests/unit/applier/test_writer.py::test_a_sentinel_counts_when_its_transaction_is_on_disk",
    ),
    Mutation(
        "7 a sentinel's commit has a progress to write",
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
        "7 the sentinel's position, where no message comes",
        "services/coordinator/operations/switchover_steps.py",
        "return following.flushed >= run.sentinel",
        "return True",
        f"{VERSIONS}::test_switchover_waits_for_what_was_committed_before_the_freeze[from-10]",
    ),
    Mutation(
        "7 messages, where the source knows them",
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
        "9 a copy outlives its snapshot",
        "services/applier/planner.py",
        "return any(self._commit_lsn < self._floors[name].value for name in names if name in self._floors)",
        "return False",
        f"{PIPELINE}::test_changes_below_a_tables_floor_are_in_its_copy",
    ),
    Mutation(
        "9 parts of a plan that was given up",
        "services/shared/pg/bookkeeping/copy_ledger.py",
        "    WHERE coalesce(({plan} FOR SHARE), '') = {epoch}",
        "",
        "tests/integration/pg/copy/test_copy_parts.py::test_a_part_whose_plan_is_given_up_meanwhile_cannot_commit",
    ),
    Mutation(
        "9 each table has a floor of its own",
        "services/applier/planner.py",
        "self._highest_floor = max(",
        "self._highest_floor = min(",
        f"{PIPELINE}::test_changes_below_a_tables_floor_are_in_its_copy",
    ),
    Mutation(
        "10 values are bytes",
        "services/shared/pg/apply/target_table.py",
        "for i in self.inserted if new[i] is not UNCHANGED and not self.columns",
        "for i in self.inserted if new[i] is not None and new[i] is not UNCHANGED and not self.columns",
        f"{PIPELINE}::test_null_and_empty_and_unchanged_are_three_things",
    ),
    Mutation(
        "32 keys of tables that are not replicated in full",
        "services/coordinator/phases/indexes.py",
        "    await _loosen_keys(context)",
        "    pass",
        f"{LOOSE_KEYS}::test_keys_of_tables_that_are_not_replicated_in_full_are_not_valid",
    ),
    Mutation(
        "32 keys that the destination had before are named",
        "services/coordinator/phases/indexes.py",
        "        await _warn_of_keys(context)\n",
        "",
        f"{LOOSE_KEYS}::test_keys_that_the_destination_brought_itself_are_only_named",
    ),
    Mutation(
        "4 a promoted source is not read on",
        "services/coordinator/pipeline/credentials.py",
        "if found.timeline != slot.timeline:",
        "if not found.timeline:",
        "tests/integration/coordinator/test_promoted_source.py",
    ),
    Mutation(
        "33 rows of unlogged tables are counted at the switchover",
        "services/coordinator/operations/switchover.py",
        "    await check_unlogged(run.context)\n",
        "",
        f"{LOOSE_KEYS}::test_unlogged_tables_that_a_crash_has_emptied_are_copied_again_before_the_switchover",
    ),
    Mutation(
        "33 unlogged tables are looked at again within the freeze",
        "services/coordinator/operations/switchover_steps.py",
        "    await check_unlogged(run.context, frozen=True)\n",
        "",
        f"{LOOSE_KEYS}::test_unlogged_tables_that_a_crash_empties_amid_the_freeze_roll_the_switchover_back",
    ),
    Mutation(
        "33 rows of unlogged tables are counted at the end of the copy",
        "services/coordinator/phases/indexes.py",
        "    await check_unlogged(context)\n",
        "",
        f"{LOOSE_KEYS}::test_unlogged_tables_that_a_crash_has_emptied_amid_a_clone_stop_its_end",
    ),
    Mutation(
        "33 some rows are not all rows",
        "services/coordinator/tables/unlogged.py",
        "        if rows < expected.get(table, 0)",
        "        if not rows and expected.get(table, 0)",
        f"{LOOSE_KEYS}::test_unlogged_tables_that_a_crash_has_emptied_are_copied_again_before_the_switchover",
    ),
    Mutation(
        "11 no sets where rows share a key",
        "services/shared/pg/apply/relation_match.py",
        " or (bool(where) and not any(one <= key for one in unique))",
        "",
        f"{PIPELINE}::test_a_key_that_rows_share_does_not_hide_a_missing_one",
    ),
    Mutation(
        "31 SQL_ASCII is not converted",
        "services/shared/pg/session/encoding.py",
        'return conn.info.parameter_status("server_encoding") == RAW',
        "return False",
        f"{ENCODINGS}::test_text_arrives_byte_for_byte[SQL_ASCII]",
    ),
    Mutation(
        "31 the environment does not set the encoding",
        "services/shared/pg/session/connection.py",
        ', "client_encoding": "UTF8"}',
        "}",
        f"{ENCODINGS}::test_text_arrives_byte_for_byte[LATIN1]",
    ),
    Mutation(
        "30 generated columns of identities are published",
        "services/shared/pg/replication/publication.py",
        "    elif generated:",
        "    elif False:",
        f"{IDENTITIES}::test_stored_generated_columns_of_identities_are_published_from_18_on",
    ),
    Mutation(
        "30 an identity that is not sent is none",
        "services/shared/pg/catalog/replica_identity_facts.py",
        "        return self.identity_stored and identity is not ReplicaIdentity.FULL",
        "        return False",
        f"{IDENTITIES}::test_before_18_an_identity_with_a_generated_column_counts_as_none",
    ),
    Mutation(
        "22 a copy begins with a new applier",
        "services/coordinator/tables/adopt.py",
        "began_copy(tables, dropped, secrets.token_hex(8))",
        "began_copy(tables, dropped, migration.record.applier_epoch)",
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
        "30 partitions of a root that is only copied stay unpublished",
        "services/coordinator/tables/publish.py",
        "if not {table, tops.get(table, table)} & left_out",
        "if table not in left_out",
        f"{RESYNC_IDENTITIES}::test_partitions_of_a_copy_only_root_are_copied_again_and_stay_unpublished",
    ),
    Mutation(
        "30 no table is added whose identity is not sent",
        "services/shared/pg/catalog/replica_identity.py",
        "    if version >= PUBLISH_GENERATED_SINCE and not sends_generated:",
        "    if False:",
        f"{RESYNC_IDENTITIES}::test_a_table_made_since_whose_key_the_publication_does_not_send_is_refused",
    ),
    Mutation(
        "30 what is published decides which tables can be added",
        "services/shared/pg/catalog/replica_identity.py",
        "    if version >= PUBLISH_GENERATED_SINCE and not sends_generated:",
        "    if version >= PUBLISH_GENERATED_SINCE:",
        f"{RESYNC_IDENTITIES}::test_a_table_made_since_with_a_key_that_is_sent_is_replicated",
    ),
    Mutation(
        "30 a root without a key is published by its partitions",
        "services/shared/pg/catalog/replica_identity.py",
        "if table in roots and not roots[table].keyed)",
        "if False)",
        f"{IDENTITIES}::test_a_partition_made_later_can_be_updated_though_its_root_has_no_key",
    ),
    Mutation(
        "10 long values are cut between characters",
        "services/shared/pg/apply/long_values.py",
        "if data[at] & 0xC0 != 0x80",
        "if True",
        "tests/integration/pg/apply/test_long_values.py::test_long_values_of_every_kind_of_type_arrive",
    ),
    Mutation(
        "11 zero rows matched",
        "services/shared/pg/apply/session.py",
        "if operation.rows is not None and count != operation.rows:",
        "if False:",
        f"{PIPELINE}::test_update_of_a_missing_row_stops_the_pipeline",
    ),
    Mutation(
        "12 stop, never skip",
        "services/applier/writer.py",
        "                await self._execute([one], row_by_row(one.steps))\n",
        "                try:\n"
        "                    await self._execute([one], row_by_row(one.steps))\n"
        "                except PgmigError:\n"
        "                    await self._session.rollback()\n"
        "                    continue\n",
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
        "14 a long value goes in pieces",
        "services/shared/pg/apply/long_values.py",
        "LONG = 4 << 20",
        "LONG = 4 << 40",
        "tests/integration/pipeline/test_memory.py::test_a_bytea_of_a_hundred_megabytes",
    ),
    Mutation(
        "14 a large row waits in a file",
        "services/shared/wire/joining.py",
        "SPOOLED = 8 << 20",
        "SPOOLED = 8 << 40",
        "tests/integration/pipeline/test_memory.py::test_a_bytea_of_a_hundred_megabytes",
    ),
    Mutation(
        "14 a full stream drops nothing",
        "services/shared/bus/changes.py",
        "discard=api.DiscardPolicy.NEW,",
        "discard=api.DiscardPolicy.OLD,",
        f"{FULL_STREAM}::test_a_destination_stalled_beyond_the_sender_timeout_loses_nothing",
    ),
    Mutation(
        "14 what was refused behind the first is sent again",
        "services/shared/bus/changes.py",
        "        for item in others:\n            await self._send(item.data, item.headers)",
        "        del others",
        f"{FULL_STREAM}::test_a_destination_stalled_beyond_the_sender_timeout_loses_nothing",
    ),
    Mutation(
        "14 a transaction that never fits is told",
        "services/decoder/stream.py",
        "if in_vain(before, now):",
        "if False:",
        f"{FULL_STREAM}::test_a_transaction_larger_than_the_stream_fails_until_the_cap_is_raised",
    ),
    Mutation(
        "14 space that the applier may still make is waited for",
        "services/decoder/space.py",
        "return self.first.end_lsn == self.last.end_lsn <= self.flushed",
        "return True",
        "tests/unit/decoder/test_stream_space.py::test_what_is_not_flushed_or_not_trimmed_yet_may_still_make_space",
    ),
    Mutation(
        "14 a TRUNCATE of many tables goes in several messages",
        "services/decoder/batcher.py",
        "                if self._size >= self._target and (batch := self._end()) is not None:",
        "                if False and (batch := self._end()) is not None:",
        f"{PIPELINE}::test_a_truncate_of_more_than_a_message_holds",
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
        "services/coordinator/post_data/schedule.py",
        "if not self._all_complete and task.table not in self._complete:",
        "if False:",
        "tests/unit/coordinator/post_data/test_schedule.py::test_a_table_that_is_emptied_again_waits_again",
    ),
    Mutation(
        "16 foreign keys wait for rows of one moment",
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
        "17 a row that moves between partitions meets itself",
        "services/applier/planner.py",
        "            if oid in self._leaves\n            and other",
        "            if False\n            and other",
        f"{PARTITIONS}::test_rows_that_move_with_their_key_are_written_as_sets",
    ),
    Mutation(
        "17 the truncation of one partition",
        "services/applier/planner.py",
        "        self._check_roots_whole(oids)\n",
        "",
        f"{PARTITIONS}::test_the_truncation_of_one_partition_is_not_passed_over",
    ),
    Mutation(
        "18 TRUNCATE of a source that does not replicate it",
        "services/coordinator/operations/switchover_steps.py",
        "        await check_truncated(freeze.session, conn, files, routes, migration.id)\n",
        "",
        f"{VERSIONS}::test_truncate_is_followed_or_stops_the_switchover[from-10]",
    ),
    Mutation(
        "18 files of tables that are added later",
        "services/coordinator/tables/to_copy.py",
        "                _note_files(context.migration, identities, leaves)",
        "                pass",
        f"{VERSIONS}::test_truncate_of_an_added_table_is_followed_or_stops_the_switchover[from-10]",
    ),
    Mutation(
        "18 files are noted before the slot",
        "services/shared/pg/replication/truncation.py",
        "pg_catalog.pg_relation_filenode(c.oid)::bigint",
        "c.oid::bigint",
        f"{VERSIONS}::test_truncate_is_followed_or_stops_the_switchover[from-10]",
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
    Mutation(
        "S1 workers prove that they know the secret",
        "services/shared/rpc/handshake.py",
        "if len(given.key) != KEY_BYTES or (token and not hmac.compare_digest(given.proof, expected)):",
        "if len(given.key) != KEY_BYTES:",
        f"{WORKER_SECRET}::test_who_does_not_know_the_secret_is_given_nothing",
    ),
    Mutation(
        "S1 the coordinator proves that it knows the secret",
        "services/shared/rpc/handshake.py",
        "    if token and not (",
        "    if False and not (",
        f"{WORKER_SECRET}::test_who_takes_the_coordinators_address_is_told_ids_and_obeyed_by_nobody",
    ),
    Mutation(
        "S2 a worker id belongs to its process",
        "services/shared/rpc/workers_api.py",
        "if not hmac.compare_digest(self._keys.get(worker, key), key):",
        "if False:",
        f"{WORKER_SECRET}::test_a_worker_id_belongs_to_the_process_that_registered_it",
    ),
    Mutation(
        "S15 functions of owners are named",
        "services/shared/pg/preflight/functions.sql",
        "     WHERE k.contype = 'c'\n    UNION ALL\n    SELECT 'pg_catalog.pg_type'",
        "     WHERE false\n    UNION ALL\n    SELECT 'pg_catalog.pg_type'",
        f"{OWNERS}::test_they_have_the_rights_of_a_superuser_who_is_warned",
    ),
    Mutation(
        "S15 built-in functions that carry out any SQL",
        "services/shared/pg/preflight/functions.sql",
        "p.provolatile = 'v'",
        "false",
        f"{OWNERS}::test_whatever_calls_functions_is_named[built-in]",
    ),
    Mutation(
        "S15 roles that may become a superuser",
        "services/shared/pg/preflight/functions.py",
        "    if may_become:",
        "    if False:",
        f"{OWNERS}::test_a_role_that_may_become_a_superuser_is_warned[member]",
    ),
    Mutation(
        "S3 a socket of this user alone",
        "services/shared/rpc/listening.py",
        "path.chmod(0o600)",
        "path.chmod(0o666)",
        f"{PRIVATE}::test_no_other_user_reaches_the_socket_even_in_an_open_directory",
    ),
    Mutation(
        "S4 no link is followed",
        "services/shared/runtime/files.py",
        "flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600",
        "flags | os.O_CLOEXEC, 0o600",
        f"{PRIVATE}::test_nothing_is_written_through_a_link",
    ),
    Mutation(
        "S4 private whatever the umask",
        "clients/embedded/shim.py",
        "os.umask(0o077)",
        "os.umask(0)",
        f"{PRIVATE}::test_a_program_that_asks_for_no_mode_makes_private_files",
    ),
    Mutation(
        "40 a freeze lets nobody in",
        "services/shared/pg/freeze/source.py",
        "        await set_open(self._side, self.before.database, accepts=False)",
        "        pass",
        f"{ESCAPES}::test_nobody_comes_in_afterwards_not_even_a_superuser",
    ),
    Mutation(
        "40 sessions are exempt by process id",
        "services/shared/pg/freeze/sessions.py",
        '" AND a.pid <> ALL (%(spared)s)',
        "\" AND a.application_name NOT LIKE 'pgmig %%' AND a.pid <> ALL (%(spared)s)",
        f"{ESCAPES}::test_session_begun_amid_the_freeze_writes_nothing",
    ),
    Mutation(
        "40 sessions that show nothing are ended too",
        "services/shared/pg/freeze/sessions.py",
        '" AND coalesce(a.backend_start <= pg_catalog.to_timestamp(%(moment)s), true)"',
        '" AND a.backend_start <= pg_catalog.to_timestamp(%(moment)s)"',
        f"{ESCAPES}::test_sessions_of_another_role_are_ended_at_the_freeze",
    ),
    Mutation(
        "40 prepared transactions are gone",
        "services/shared/pg/freeze/source.py",
        "if not prepared and set(present)",
        "if set(present)",
        f"{ESCAPES}::test_prepared_transaction_holds_the_freeze_up_and_is_named",
    ),
    Mutation(
        "41 behind the sentinel",
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
        "41 a full look that found nothing says nothing",
        "services/shared/pg/replication/late_writes.py",
        "            if rows or -looked_at < LOOKED_AT_MOST:",
        "            if True:",
        f"{AFTER}::test_late_writes_are_found_behind_more_changes_than_one_look_decodes",
    ),
    Mutation(
        "42 undo wins its compare and set",
        "services/coordinator/operations/undo.py",
        "        await context.journal.claim()\n",
        "",
        f"{AFTER}::test_undo_wins_its_compare_and_set_before_it_thaws",
    ),
    Mutation(
        "42 a thaw ends the sessions of the freeze first",
        "services/shared/pg/freeze/thaw.py",
        "        await end_own(conn, others)\n",
        "",
        "tests/integration/coordinator/test_two_coordinators.py",
    ),
    Mutation(
        "43 sessions that cannot be ended refuse the freeze",
        "services/shared/pg/freeze/source.py",
        "            await check_endable(side, before.database, await freeze._spared())\n",
        "",
        f"{ESCAPES}::test_sessions_of_superusers_refuse_the_freeze_of_a_role_that_may_not_end_them",
    ),
    Mutation(
        "43 the right to close the database is proven first",
        "services/shared/pg/freeze/source.py",
        "            await _prove_rights(admin, side, before)\n",
        "",
        f"{ESCAPES}::test_role_that_does_not_own_the_database_is_refused_before_anything_is_blocked",
    ),
    Mutation(
        "42 a claim needs no disk",
        "services/coordinator/migration/journal.py",
        '        FENCED and BROKER."""\n        async with self._lock:\n',
        '        FENCED and BROKER."""\n        async with self._lock:\n            await self._write()\n',
        f"{AFTER}::test_undo_opens_the_source_although_the_state_file_cannot_be_written",
    ),
    Mutation(
        "44 commands wait for the end of a switchover",
        "services/coordinator/commands.py",
        "if self.loop.switching:\n            raise _wrong_phase(",
        "if False:\n            raise _wrong_phase(",
        AMID,
    ),
    Mutation(
        "45 undoing goes on until it succeeds",
        "services/coordinator/operations/undo.py",
        "        except Exception as exc:",
        "        except PgmigError as exc:",
        AMID,
    ),
    Mutation(
        "42 a coordinator that was refused stays refused",
        "services/shared/bus/store.py",
        "            if head in ours:\n                self._revisions[key] = revision\n",
        "            self._revisions[key] = revision\n            if head in ours:\n",
        "tests/integration/bus/test_store.py::test_second_coordinator_fences_the_first",
    ),
    Mutation(
        "20 a part's table is in the file that the snapshot shows",
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
        "21 another table under the same name",
        "services/shared/model/table_identity.py",
        "    if now.oid != before.oid:",
        "    if False:",
        "tests/unit/model/test_table_identity.py::test_a_change_is_named_by_what_it_takes_to_go_on",
    ),
    Mutation(
        "21 a table that the publication lost for a while",
        "services/shared/model/table_identity.py",
        "    if now.published != before.published or",
        "    if",
        "tests/unit/model/test_table_identity.py::test_a_change_is_named_by_what_it_takes_to_go_on",
    ),
    Mutation(
        "21 rows that were rewritten",
        "services/shared/model/table_identity.py",
        "    if altered and (now.file != before.file or _names_reused(before, now)):",
        "    if altered and _names_reused(before, now):",
        "tests/unit/model/test_table_identity.py::test_a_change_is_named_by_what_it_takes_to_go_on",
    ),
    Mutation(
        "21 what is forgotten is recorded before its notes are deleted",
        "services/coordinator/tables/adopt.py",
        """    await context.journal.save()
    await forget_copies(destination, migration.record.migration_id, tables, identities=True)
""",
        """    await forget_copies(destination, migration.record.migration_id, tables, identities=True)
    await context.journal.save()
""",
        f"{BROKEN_OFF}::test_a_dropped_table_is_forgotten_again_by_the_next_coordinator",
    ),
    Mutation(
        "21 a table that was forgotten half is forgotten",
        "services/coordinator/tables/adopt.py",
        "    by_own_name |= {one.table for one in migration.record.dropped}",
        "    by_own_name |= set()",
        f"{BROKEN_OFF}::test_a_dropped_table_is_forgotten_again_by_the_next_coordinator",
    ),
    Mutation(
        "S16 only the server's own casts to text",
        "services/shared/pg/apply/target_table.py",
        "_SAME_BY_CAST if self.columns[i].cast_to_text else _SAME_BY_OUTPUT",
        "_SAME_BY_CAST",
        f"{CASTS}::test_rows_without_a_key_are_found_by_what_the_type_prints",
    ),
    Mutation(
        "42 sequences are set by whoever claimed them last",
        "services/shared/pg/catalog/sequences.py",
        "AND claim = %s FOR UPDATE",
        "AND %s <> '' FOR UPDATE",
        f"{TWO}::test_sequences_that_were_read_before_another_coordinators_are_not_set_after_them",
    ),
    Mutation(
        "42 the session that enables subscriptions is recorded",
        "services/shared/pg/freeze/thaw.py",
        "                await announce((await own_session(conn),))\n",
        "                pass\n",
        f"{TWO}::test_thaw_that_was_overtaken_enables_no_subscription",
    ),
    Mutation(
        "42 a deleted record stays deleted",
        "services/shared/bus/store.py",
        "            if created == self._created:",
        "            if False:",
        "tests/integration/bus/test_store.py::test_a_key_that_another_coordinator_has_deleted_stays_deleted",
    ),
    Mutation(
        "S16 only the server's own casts from text",
        "services/shared/pg/apply/target_table.py",
        "_TYPED_BY_CAST if self.cast_from_text else _TYPED_BY_INPUT",
        "_TYPED_BY_CAST",
        f"{CASTS}::test_rows_that_are_written_together_are_read_by_input_functions",
    ),
    Mutation(
        "S16 no cast of a row",
        "services/shared/pg/copy/untranslatable.py",
        "ROW(pgmig_row.*)::text AS text",
        "pgmig_row.*::text AS text",
        f"{CASTS}::test_the_search_for_text_without_equivalent_calls_no_cast_of_the_row",
    ),
    Mutation(
        "22 an applier of before is kept out",
        "services/shared/pg/apply/fence.py",
        '        if (found[0] if found else "") != epoch:',
        "        if False:",
        "tests/integration/coordinator/tables/test_resync.py::test_an_applier_of_before_is_ended_and_kept_out",
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
)
