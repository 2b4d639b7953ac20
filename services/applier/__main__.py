"""pgmig-applier: builds the applier from its parts and runs it."""

from __future__ import annotations

from services.applier.handler import applier_runner
from services.shared.bus.connection import Client
from services.shared.model import Role
from services.shared.runtime.assignments import AssignmentRunner, Report
from services.shared.runtime.config import ServiceSettings
from services.shared.worker.main import run_worker


def make_runner(client: Client, report: Report, _settings: ServiceSettings) -> AssignmentRunner:
    return applier_runner(client, report)


def main() -> None:
    run_worker(Role.APPLIER, ServiceSettings, make_runner)


if __name__ == "__main__":
    main()
