"""pgmig-copier: builds the copier from its parts and runs it."""

from __future__ import annotations

from services.copier.config import CopierSettings
from services.copier.handler import copier_runner
from services.shared.bus.connection import Client
from services.shared.model import Role
from services.shared.runtime.assignments import AssignmentRunner, Report
from services.shared.worker.main import run_worker


def make_runner(client: Client, report: Report, settings: CopierSettings) -> AssignmentRunner:
    return copier_runner(client, report, settings.lease_s)


def main() -> None:
    run_worker(Role.COPIER, CopierSettings, make_runner)


if __name__ == "__main__":
    main()
