"""Mutations of the rules about hooks and poolers (55, 56, S17), and of 57."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

POOLERS = "tests/integration/coordinator/operations/test_poolers.py"
HOOKS = "tests/integration/coordinator/operations/test_hooks.py"
RECORDED = "tests/unit/coordinator/operations/test_recorded_hooks.py"
PROCESS = "tests/unit/coordinator/operations/test_hook_process.py"
READY = "tests/unit/coordinator/operations/test_await_ready.py"
HANDOVER = "tests/unit/coordinator/operations/test_handover.py"
KILLED = f"{POOLERS}::test_pooler_is_resumed_after_the_coordinator_was_killed"
KILLED_AMID = f"{HOOKS}::test_coordinator_killed_amid_hooks_runs_the_one_that_is_due"

MUTATIONS = (
    Mutation(
        "55 clients of a paused pooler wait",
        "services/shared/pg/pooler/console.py",
        'await _error(conn, f"PAUSE{_argument(uri)}")',
        'await _error(conn, "SHOW VERSION")',
        f"{POOLERS}::test_clients_of_a_paused_pooler_see_no_error_and_lose_no_commit",
    ),
    Mutation(
        "55 the record names a pooler before it is paused",
        "services/coordinator/operations/poolers.py",
        "    context.migration.handover.pausing(operation.operation_id, poolers, hook_expected=expected)\n",
        "    pass\n",
        f"{KILLED}[pause-poolers.end]",
    ),
    Mutation(
        "55 the next coordinator resumes a pooler after the decision",
        "services/coordinator/operations/switching.py",
        "        if not handover.due(self._context):\n            end()",
        "        if True:\n            end()",
        f"{KILLED}[resume-poolers.begin]",
    ),
    Mutation(
        "55 clients are not resumed while the pooler leads to the old source",
        "services/coordinator/operations/handover.py",
        "    if not _led(context):",
        "    if False:",
        f"{POOLERS}::test_pooler_stays_paused_if_the_hook_after_the_decision_fails",
    ),
    Mutation(
        "55 the record says whether the hook after the decision has succeeded",
        "services/coordinator/operations/handover.py",
        "    if handover.hook_succeeded(operation.operation_id):\n",
        "    if handover.concluded(operation.operation_id):\n",
        f"{HANDOVER}::test_no_coordinator_resumes_a_pooler_after_a_hook_that_failed",
    ),
    Mutation(
        "55 an unexpected error of ours is a failure of the hook",
        "services/coordinator/operations/hooks.py",
        "    except Exception as exc:  # the program",
        "    except PgmigError as exc:  # the program",
        f"{HANDOVER}::test_no_coordinator_resumes_a_pooler_after_a_hook_that_failed",
    ),
    Mutation(
        "55 a hook of settings that were removed is still waited for",
        "services/coordinator/operations/handover.py",
        "    return closed and not expected and not handover.hook_expected(operation.operation_id)\n",
        "    return closed and not expected\n",
        f"{HANDOVER}::test_pooler_stays_paused_if_the_next_coordinator_has_no_hook_in_its_settings",
    ),
    Mutation(
        "55 a pooler that no hook leads away from an open source is not paused",
        "services/coordinator/operations/handover.py",
        "    _check_led(context, options)\n\n\ndef _check_led",
        "\n\ndef _check_led",
        f"{HANDOVER}::test_pooler_that_no_hook_leads_is_refused_if_the_source_stays_open",
    ),
    Mutation(
        "55 a pooler is resumed after the hook that leads it to the destination",
        "services/coordinator/operations/handover.py",
        "    failure = await _hook_after(context, feed, HookName.AFTER_DECISION",
        "    await _resume(context, feed)\n"
        "    failure = await _hook_after(context, feed, HookName.AFTER_DECISION",
        f"{POOLERS}::test_clients_of_a_paused_pooler_see_no_error_and_lose_no_commit",
    ),
    Mutation(
        "55 a pooler is resumed after a roll-back",
        "services/coordinator/operations/switchover.py",
        "    await handover.conclude(context, feed)\n    if pipelines",
        "    if pipelines",
        f"{POOLERS}::test_pooler_that_cannot_be_paused_in_time_rolls_back_and_is_resumed",
    ),
    Mutation(
        "56 a failed hook before the freeze prevents the switchover",
        "services/coordinator/operations/handover.py",
        "    if failure := await hooks.run_hook(context, operation, HookName.BEFORE_FREEZE):\n",
        "    if (failure := await hooks.run_hook(context, operation, HookName.BEFORE_FREEZE)) == '?':\n",
        f"{HOOKS}::test_failing_hook_before_the_freeze_ends_the_switchover_with_its_reason",
    ),
    Mutation(
        "56 the hook before the freeze is recorded before it runs",
        "services/coordinator/operations/handover.py",
        "    context.migration.handover.starting_hook(operation.operation_id)\n",
        "    pass\n",
        f"{KILLED_AMID}[hook-before-freeze.end]",
    ),
    Mutation(
        "56 the next coordinator runs the hook after the decision",
        "services/coordinator/operations/handover.py",
        "    return begun and configured and not handover.concluded(operation.operation_id)\n",
        "    return begun and configured and operation.failure is not None\n",
        f"{KILLED_AMID}[decided]",
    ),
    Mutation(
        "56 children of a hook are killed with it",
        "services/coordinator/operations/hook_process.py",
        "        os.killpg(process.pid, number)",
        "        os.kill(process.pid, number)",
        f"{HOOKS}::test_hook_and_its_children_are_killed_when_its_time_is_over",
    ),
    Mutation(
        "56 a process that a hook leaves does not make the switchover wait",
        "services/coordinator/operations/hook_process.py",
        "        await asyncio.wait({reading}, timeout=DRAIN_S)\n",
        "        await asyncio.wait({reading})\n",
        f"{PROCESS}::test_command_that_leaves_a_process_with_its_output_has_ended",
    ),
    Mutation(
        "56 a hook that cannot be killed does not make the switchover wait",
        "services/coordinator/operations/hook_process.py",
        "contextlib.suppress(ProcessLookupError, PermissionError)",
        "contextlib.suppress(ProcessLookupError)",
        f"{PROCESS}::test_command_that_cannot_be_killed_is_left_and_reported",
    ),
    Mutation(
        "57 writes are not blocked while the applier fails again and again",
        "services/coordinator/migration/stream_progress.py",
        "        return self.live and not self.applier_error\n",
        "        return self.live\n",
        f"{READY}::test_it_waits_for_an_applier_that_fails_and_tries_again",
    ),
    Mutation(
        "57 writes are not blocked after the workers were stopped",
        "services/coordinator/pipeline/staffing.py",
        "            if Role.APPLIER in roles:  # it may have reported until it stopped\n",
        "            if False:\n",
        f"{READY}::test_it_waits_for_the_next_applier_when_the_workers_were_released",
    ),
    Mutation(
        "S17 a coordinator runs no commands of its clients",
        "services/coordinator/operations/hooks.py",
        "    if any(options.hooks.values()) and not context.hooks.from_clients:\n",
        "    if False:\n",
        f"{HOOKS}::test_coordinator_that_others_reach_runs_only_the_hooks_of_its_settings",
    ),
    Mutation(
        "S17 a coordinator runs no commands of clients that another one has recorded",
        "services/coordinator/operations/hooks.py",
        "        _check_permitted(context, operation.options)\n",
        "        pass\n",
        f"{RECORDED}::test_hook_of_a_client_is_not_run_where_such_hooks_are_refused",
    ),
    Mutation(
        "S17 a switchover with recorded commands of clients is refused before writes are blocked",
        "services/coordinator/operations/hooks.py",
        "    _check_permitted(context, options)\n    for text in",
        "    for text in",
        f"{RECORDED}::test_switchover_with_a_clients_hook_does_not_begin_where_such_hooks_are_refused",
    ),
    Mutation(
        "S17 a request that is refused replaces no password of a pooler",
        "services/coordinator/operations/switching.py",
        "        handover.check_accepted(self._context, options)\n",
        "        self._context.poolers.give(given)\n"
        "        handover.check_accepted(self._context, options)\n",
        f"{RECORDED}::test_request_that_could_not_be_stored_does_not_replace_a_poolers_password",
    ),
    Mutation(
        "S17 a password that a pooler's console refuses replaces none that it has accepted",
        "services/coordinator/operations/poolers.py",
        "        context.poolers.proven(pooler, uri)\n",
        "        pass\n",
        f"{RECORDED}::test_password_that_the_console_refuses_does_not_replace_one_that_it_accepted",
    ),
    Mutation(
        "S17 a hook inherits no secret",
        "services/coordinator/operations/hook_process.py",
        "        if not name.startswith(_OURS) and name not in _SECRETS and",
        "        if not name.startswith(_OURS) and",
        f"{HOOKS}::test_hooks_get_facts_and_no_secrets_and_run_once_around_the_decision",
    ),
    Mutation(
        "S17 a pooler's password is not recorded",
        "services/coordinator/operations/handover.py",
        "dict.fromkeys(without_password(uri) for uri",
        "dict.fromkeys(uri for uri",
        f"{POOLERS}::test_clients_of_a_paused_pooler_see_no_error_and_lose_no_commit",
    ),
)
