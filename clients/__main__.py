"""pgmig-cli: the command line, and the dashboard and the web server that it starts. Only this module imports
all of them."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

from clients.embedded import prestart

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from clients.cli.faces import Faces
    from clients.serving import Announce, Places, ServerSettings


def main() -> None:
    _occupy_standard_streams()
    if prestart.likely(sys.argv[1:], os.environ):
        prestart.begin([prestart.service_module(role) for role in ("coordinator", "decoder", "copier")])
    run()


def _occupy_standard_streams() -> None:
    """Open the closed standard streams, so that no file opened later takes their place."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def open_dashboard(address: str, migration_id: str) -> int:
    """Returns the exit code. Textual is imported only here, because the command line must start fast."""
    from clients import tui

    return tui.run(address, migration_id)


def serve_web(
    settings: ServerSettings, places: Places, announce: Announce
) -> Coroutine[object, object, None]:
    """FastAPI is imported only here, for the same reason."""
    from clients.web.server import serve

    return serve(settings, places, announce)


def faces() -> Faces:
    from clients.cli.faces import Faces

    return Faces(open_dashboard, serve_web)


def run() -> None:
    """End the process at once, without the interpreter's clean-up, which matters only for open resources.

    Imports create many objects and no garbage, so the collector is disabled during them.
    """
    gc.disable()
    from clients.cli.app import cli
    from services.shared.runtime.diagnostics import end_process

    try:
        cli(prog_name="pgmig-cli", obj=faces())
    except SystemExit as exc:
        if not isinstance(exc.code, int):
            raise
        prestart.forget()
        end_process(exc.code)


if __name__ == "__main__":
    main()
