"""Mutations of the rules about several servers and promoted standbys (80 to 82)."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

PRIMARY = "tests/integration/pg/session/test_primary.py"
SEVERAL_SERVERS = "tests/integration/coordinator/test_several_servers.py"
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
)
