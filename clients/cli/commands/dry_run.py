"""`switchover --dry-run`: the steps of a switchover that change nothing and block nobody."""

from __future__ import annotations

from contextlib import aclosing

from clients.cli.coordinator import connected
from clients.cli.fragments import dry_step_text, toned
from clients.cli.options import Invocation
from clients.cli.output import print_json, print_table
from clients.diagnostics import talk
from clients.presentation.readiness import dry_run_outcome
from services.shared.model import DryRunResult, DryRunStep, ErrorKind, LagLimit, PgmigError, SwitchoverOptions
from services.shared.model.view.jsonview import to_json


async def dry_run(invocation: Invocation, max_lag: LagLimit, options: SwitchoverOptions) -> DryRunResult:
    """Show each step with its result, then the overall result. options: whose hooks, poolers and way
    back are checked."""
    async with (
        connected(invocation, "check") as (session, migration_id),
        aclosing(session.dry_run(migration_id.value, max_lag, options)) as steps,
    ):
        async for one in steps:
            if invocation.json:
                print_json(to_json(one), line=True)
            elif isinstance(one, DryRunStep):
                talk(dry_step_text(one))
            if isinstance(one, DryRunResult):
                if not invocation.json:
                    print_table(toned(dry_run_outcome(one)))
                return one
    raise PgmigError(
        ErrorKind.UNREACHABLE, "the dry run did not finish", "see that the coordinator runs, then try again"
    )
