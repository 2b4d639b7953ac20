"""A coordinator process whose migrations go from phase to phase by themselves."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys

from services.shared.model import MigrationView, Phase
from services.shared.model.view.jsonview import view_from_json
from services.shared.rpc.server import ControlServer
from services.shared.runtime.config import ServiceSettings
from services.shared.runtime.files import replace_file
from services.shared.runtime.lifecycle import run_service
from tests.fakes.control import NoWorkers, StandInControl

log = logging.getLogger(__name__)

STEP_S = 0.01
CLONE = (Phase.SCHEMA, Phase.COPY, Phase.INDEXES, Phase.COMPLETE)
FOLLOWING = (*CLONE[:-1], Phase.CATCHUP, Phase.STREAMING)


async def serve(settings: ServiceSettings, stop: asyncio.Event) -> None:
    control = StandInControl(settings.state_dir)
    running: set[asyncio.Task[None]] = set()

    async def drive(view: MigrationView) -> None:
        for phase in FOLLOWING if view.options.follow else CLONE:
            await asyncio.sleep(STEP_S)
            if phase is Phase.COPY and "broken" in view.migration_id:
                control.move(view.migration_id, Phase.FAILED, resume_phase=phase)
                return
            control.move(view.migration_id, phase)

    def started(view: MigrationView) -> None:
        task = asyncio.create_task(drive(view))
        running.add(task)
        task.add_done_callback(running.discard)

    control.started = started
    for file in settings.state_dir.glob("*/state.json"):
        control.put(view_from_json(json.loads(file.read_text())["view"]))
    server = ControlServer(settings.listen, control, NoWorkers())
    address = await server.start()
    if settings.port_file is not None:
        replace_file(settings.port_file, address)
    log.info("ready, with %s", sorted(name for name in os.environ if name.endswith("_URI")))
    await stop.wait()
    await server.stop(1)


def main() -> None:
    sys.exit(run_service("coordinator", serve))


if __name__ == "__main__":
    main()
