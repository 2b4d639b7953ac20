"""Mutations of the rules about several servers and promoted standbys (80 to 84)."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

PRIMARY = "tests/integration/pg/session/test_primary.py"
SEVERAL_SERVERS = "tests/integration/coordinator/test_several_servers.py"
PROMOTED_STANDBY = "tests/integration/coordinator/test_promoted_standby.py"
PROMOTION = "tests/unit/coordinator/pipeline/test_promotion.py"
TIMELINES = "tests/unit/pg/replication/test_timelines.py"
CHANGE_STREAM = "tests/integration/bus/test_change_stream_timeline.py"
FORMER_PRIMARY = "tests/integration/pipeline/test_former_primary.py"
DESTINATION = "tests/integration/coordinator/test_promoted_destination.py"
MILESTONES = "tests/unit/coordinator/pipeline/test_milestones.py"
STANDBYS = "tests/integration/pg/session/test_standbys.py"
APPLY_SESSION = "tests/integration/pg/apply/test_session.py"
STAFFING = "tests/unit/coordinator/workers/test_staffing.py"
SWITCHOVER = "tests/unit/coordinator/operations/test_switchover.py"
URI = "tests/unit/pg/session/test_uri.py"

MUTATIONS = (
    Mutation(
        "80 no session is with a standby",
        "services/shared/pg/session/connection.py",
        '    ours["target_session_attrs"] = "primary"',
        '    ours["target_session_attrs"] = "any"',
        f"{PRIMARY}::test_the_primary_is_found_at_any_place_of_the_list_and_a_standby_is_refused",
    ),
    Mutation(
        "80 of two primaries the one that was promoted last counts",
        "services/shared/pg/session/primary.py",
        "max(ours, key=lambda one: one.timeline)",
        "ours[0]",
        f"{PRIMARY}::test_the_server_on_the_latest_timeline_counts_although_the_former_primary_still_runs",
    ),
    Mutation(
        "80 a server of another system is never used",
        "services/shared/pg/session/primary.py",
        'if system_identifier in {"", one.system_identifier}',
        "if True",
        f"{PRIMARY}::test_a_server_of_another_system_is_not_taken_for_the_recorded_one",
    ),
    Mutation(
        "80 the recorded list of servers stays complete",
        "services/shared/pg/session/uri.py",
        "(several if same_servers(uri, where) else {})",
        "{}",
        f"{URI}::test_an_address_of_one_of_the_servers_keeps_the_recorded_list",
    ),
    Mutation(
        "80 the primary is found again when a phase begins",
        "services/coordinator/pipeline/primary_watch.py",
        "            if self._in_use.complete and now.addresses != self._in_use.addresses:\n",
        "            if False:\n",
        f"{SEVERAL_SERVERS}::test_the_migration_continues_at_the_destination_that_was_promoted",
    ),
    Mutation(
        "80 workers with a former primary stop, however the phase ended",
        "services/coordinator/pipeline/staffing.py",
        'if not all(one.assignment_id.startswith(f"{prefix}-") for one in running):',
        "if False:",
        STAFFING,
    ),
    Mutation(
        "80 all workers of a phase use the servers that it began with",
        "services/coordinator/pipeline/staffing.py",
        "return known if self.works_with(known) else self._uris",
        "return known",
        f"{STAFFING}::test_all_workers_of_a_phase_use_the_servers_that_it_began_with",
    ),
    Mutation(
        "80 a switchover does not begin while the workers are with a former primary",
        "services/coordinator/operations/switchover.py",
        " and workers.staffing.works_with(run.uris)",
        "",
        SWITCHOVER,
    ),
    Mutation(
        "80 a switchover does not freeze a former primary",
        "services/coordinator/operations/switchover.py",
        "        await check_primaries(run.context, run.uris)\n",
        "",
        f"{SWITCHOVER}::test_switchover_does_not_begin_at_a_former_primary",
    ),
    Mutation(
        "81 changes that the promoted source lacks are a gap",
        "services/shared/pg/replication/timelines.py",
        "    if read > ends:",
        "    if False:",
        f"{TIMELINES}::test_a_timeline_that_was_left_before_the_progress_is_a_gap",
    ),
    Mutation(
        "81 copied rows that the promoted source lacks are a gap",
        "services/coordinator/pipeline/promotion.py",
        "return max(applied, start, *copied, *dropped)",
        "return max(applied, start)",
        PROMOTION,
    ),
    Mutation(
        "81 a slot ahead of the destination is a gap",
        "services/shared/pg/replication/timelines.py",
        "    if state.confirmed_flush_lsn > applied:",
        "    if False:",
        f"{TIMELINES}::test_a_slot_ahead_of_the_progress_is_a_gap",
    ),
    Mutation(
        "81 only a synchronized slot is read after a promotion",
        "services/shared/pg/replication/timelines.py",
        "return self.slot is not None and self.slot.synchronized and not self.slot.temporary",
        "return self.slot is not None",
        f"{TIMELINES}::test_without_a_synchronized_slot_there_is_a_gap",
    ),
    Mutation(
        "81 a timeline that does not continue the recorded one is a gap",
        "services/shared/pg/replication/timelines.py",
        "    ends = found.ends.get(timeline)\n",
        "    ends = found.ends.get(timeline, read)\n",
        f"{TIMELINES}::test_a_timeline_that_is_not_in_the_history_is_a_gap",
    ),
    Mutation(
        "81 nothing is decided while a worker may use the former primary",
        "services/coordinator/pipeline/promotion.py",
        "    if not await staffing.release():",
        "    if await staffing.release() is None:",
        PROMOTION,
    ),
    Mutation(
        "81 what was read from the former primary is read again",
        "services/coordinator/pipeline/promotion.py",
        "    await delete_stream(bus, pipeline.id.change_stream)\n",
        "",
        PROMOTION,
    ),
    Mutation(
        "81 a decoder does not read a later timeline by itself",
        "services/decoder/slot.py",
        "    recorded = (work.system_identifier, work.timeline)",
        "    recorded = (work.system_identifier, identity.timeline)",
        PROMOTION,
    ),
    Mutation(
        "81 slots are failover slots",
        "services/shared/pg/replication/connection.py",
        "(SNAPSHOT 'export', FAILOVER true)",
        "(SNAPSHOT 'export', FAILOVER false)",
        f"{PROMOTED_STANDBY}::test_the_migration_continues_at_the_source_that_was_promoted",
    ),
    Mutation(
        "82 a decoder of a former primary cannot publish",
        "services/shared/model/names.py",
        """f"{self._subject('changes')}.{timeline}\"""",
        """f"{self._subject('changes')}.1\"""",
        FORMER_PRIMARY,
    ),
    Mutation(
        "82 a decoder of a former primary does not remove the stream of the promoted server",
        "services/shared/bus/change_writer.py",
        "        if found > timeline:",
        "        if False:",
        f"{CHANGE_STREAM}::test_a_writer_of_a_former_timeline_can_neither_publish_nor_open_the_stream",
    ),
    Mutation(
        "82 what a decoder of a former primary has published is not applied",
        "services/shared/bus/change_reader.py",
        'if found["config"]["subjects"] != [self._subject]:',
        "if False:",
        f"{CHANGE_STREAM}::test_a_stream_of_a_former_timeline_is_not_read_and_is_replaced",
    ),
    Mutation(
        "83 copied rows that the promoted destination lacks are a gap",
        "services/shared/pg/bookkeeping/milestone.py",
        "if milestone is None or _STEP + milestone.token in",
        "if True or _STEP in",
        f"{DESTINATION}::test_copied_rows_that_the_promoted_standby_lacks_are_a_gap",
    ),
    Mutation(
        "83 commits that the promoted old source lacks prevent a rollback",
        "services/coordinator/migration/outcome.py",
        "        milestone=decision.turn.milestone,\n",
        "",
        f"{DESTINATION}::test_commits_that_the_promoted_standby_of_the_old_source_lacks_prevent_a_rollback",
    ),
    Mutation(
        "83 indexes that were built on a former primary do not count",
        "services/coordinator/driver.py",
        "            self._timeline = timeline\n            await pipeline.schema.index_work.stop()\n",
        "            self._timeline = timeline\n",
        f"{DESTINATION}::test_parts_that_the_promoted_standby_lacks_are_copied_again[True]",
    ),
    Mutation(
        "83 a phase during which the server was promoted is repeated",
        "services/coordinator/pipeline/milestones.py",
        "        if milestone.timeline != began_on:",
        "        if False:",
        f"{MILESTONES}::test_a_phase_that_a_promotion_has_interrupted_is_repeated",
    ),
    Mutation(
        "84 changes are confirmed when standbys have them",
        "services/shared/pg/apply/session.py",
        "            flushed = min(flushed, self._standbys.value)\n",
        "            pass\n",
        f"{DESTINATION}::test_with_confirm_after_standby_nothing_is_lost_when_the_standby_is_promoted",
    ),
    Mutation(
        "84 changes of an earlier session are confirmed when standbys have them",
        "services/shared/pg/apply/session.py",
        "            self.flushed = start\n",
        "            pass\n",
        f"{APPLY_SESSION}::test_what_an_earlier_session_has_applied_counts_when_the_standbys_have_it",
    ),
    Mutation(
        "84 the copy ends when standbys have it",
        "services/coordinator/pipeline/milestones.py",
        "        if context.migration.record.options.confirm_after_standby:",
        "        if False:",
        f"{DESTINATION}::test_the_copy_ends_when_the_standby_has_it",
    ),
    Mutation(
        "84 a cancelled wait for synchronous standbys confirms nothing",
        "services/shared/pg/session/standbys.py",
        "return Lsn(0) if warnings else",
        "return Lsn(0) if False else",
        f"{STANDBYS}::test_a_wait_that_somebody_cancels_makes_nothing_safe",
    ),
)
