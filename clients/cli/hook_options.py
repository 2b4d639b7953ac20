"""Options of `switchover` about hooks and connection poolers."""

from __future__ import annotations

from functools import wraps
from typing import Any

import click
from click.core import ParameterSource

from clients.cli.option_values import duration
from clients.cli.options import Command
from clients.diagnostics import warn
from services.shared.model import SwitchoverOptions
from services.shared.model.redaction import has_password

LONGEST_HOOK_S = 3600.0

_OPTIONS = (
    click.option(
        "--pause-pooler",
        "pause_poolers",
        multiple=True,
        metavar="URI",
        envvar="PGMIG_PAUSE_POOLER",
        show_envvar=True,
        help="PgBouncer whose clients wait during the switchover instead of failing: its admin console, with "
        "the name of the database to pause, as clients use it (pgbouncer: all). Repeatable.",
    ),
    click.option(
        "--hook-before-freeze",
        metavar="COMMAND",
        default="",
        help="Run on the coordinator's host, without a shell, before anything is blocked. If it fails, the "
        "switchover does not begin.",
    ),
    click.option(
        "--hook-after-decision",
        metavar="COMMAND",
        default="",
        help="Run when the destination has replaced the source, before poolers are resumed: leads "
        "applications there. May run again after a crash.",
    ),
    click.option(
        "--hook-after-rollback",
        metavar="COMMAND",
        default="",
        help="Run when the source accepts writes again. May run again after a crash.",
    ),
    click.option(
        "--hook-timeout",
        type=duration,
        metavar="DURATION",
        default="30s",
        show_default=True,
        help="Longest time for each hook, at most 1h. After it the command and its children are killed.",
    ),
)


def hook_options(command: Command) -> Command:
    """Adds the options, and passes their values as `around`, SwitchoverOptions with the other fields at their
    defaults."""

    @wraps(command)
    @click.pass_context
    def wrapper(
        ctx: click.Context,
        /,
        *args: Any,
        pause_poolers: tuple[str, ...],
        hook_timeout: float,
        hook_before_freeze: str,
        hook_after_decision: str,
        hook_after_rollback: str,
        **rest: Any,
    ) -> Any:
        if not 0 < hook_timeout <= LONGEST_HOOK_S:
            raise click.BadParameter("must be more than 0 and at most 1h", param_hint="--hook-timeout")
        on_command_line = ctx.get_parameter_source("pause_poolers") is ParameterSource.COMMANDLINE
        if on_command_line and any(map(has_password, pause_poolers)):
            warn(
                "every user of this machine can read the password of --pause-pooler while this runs: give "
                "the connection string in PGMIG_PAUSE_POOLER, or the password in ~/.pgpass"
            )
        around = SwitchoverOptions(
            pause_poolers=pause_poolers,
            hook_before_freeze=hook_before_freeze,
            hook_after_decision=hook_after_decision,
            hook_after_rollback=hook_after_rollback,
            hook_timeout_ms=max(1, round(hook_timeout * 1000)),
        )
        return command(*args, around=around, **rest)

    for option in reversed(_OPTIONS):
        wrapper = option(wrapper)
    return wrapper
