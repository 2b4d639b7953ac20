"""Starting and stopping the copier's assignments."""

from __future__ import annotations

from services.copier.assignment import Copying, Report
from services.shared.bus.connection import Client
from services.shared.model import Assignment, CopierWork, ErrorKind, PgmigError
from services.shared.runtime.assignments import AssignmentRunner


def copier_runner(client: Client, report: Report, ack_wait_s: float) -> AssignmentRunner:
    """Runs any number of copier assignments in this process."""

    async def run(assignment: Assignment) -> None:
        if not isinstance(assignment.work, CopierWork):
            raise PgmigError(
                ErrorKind.INVALID_ARGUMENT, f"a copier cannot do the work of a {assignment.role}"
            )
        await Copying(assignment, client, report, ack_wait_s=ack_wait_s).run()

    return AssignmentRunner(run, report)
