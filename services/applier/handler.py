"""Starting and stopping the applier's assignments."""

from __future__ import annotations

from collections.abc import Callable

from services.applier.assignment import Applying
from services.shared.bus.connection import Client
from services.shared.model import Assignment, WorkerReport
from services.shared.runtime.assignments import AssignmentRunner


def applier_runner(client: Client, report: Callable[[WorkerReport], None]) -> AssignmentRunner:
    """Runs any number of applier assignments in this process."""

    async def run(assignment: Assignment) -> None:
        await Applying(assignment, client, report).run()

    return AssignmentRunner(run, report)
