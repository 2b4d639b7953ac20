"""Mutations of the rules about hooks and poolers (55, 56, S17)."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

POOLERS = "tests/integration/coordinator/operations/test_poolers.py"
HOOKS = "tests/integration/coordinator/operations/test_hooks.py"
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
        "    _check_led(context, options)\n    known =",
        "    known =",
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
        "    await handover.conclude(context, feed)\n    feed.undone",
        "    feed.undone",
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
        "S17 a coordinator runs no commands of its clients",
        "services/coordinator/operations/hooks.py",
        "    if given and not context.hooks.from_clients:\n",
        "    if False:\n",
        f"{HOOKS}::test_coordinator_that_others_reach_runs_only_the_hooks_of_its_settings",
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
        "services/coordinator/pipeline/hook_settings.py",
        "        return recorded\n\n    def uri",
        "        return uri\n\n    def uri",
        f"{POOLERS}::test_clients_of_a_paused_pooler_see_no_error_and_lose_no_commit",
    ),
)
