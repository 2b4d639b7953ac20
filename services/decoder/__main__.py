"""pgmig-decoder: builds the decoder from its parts and runs it."""

from __future__ import annotations

from services.decoder.config import DecoderSettings
from services.decoder.handler import DecoderHandler
from services.shared.bus.connection import Client
from services.shared.model import Role
from services.shared.runtime.assignments import AssignmentRunner, Report
from services.shared.worker.main import run_worker


def make_runner(client: Client, report: Report, settings: DecoderSettings) -> AssignmentRunner:
    return DecoderHandler(client, report, settings.max_stream_bytes).runner


def main() -> None:
    run_worker(Role.DECODER, DecoderSettings, make_runner)


if __name__ == "__main__":
    main()
