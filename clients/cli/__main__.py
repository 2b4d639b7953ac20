"""pgmig-cli."""

from __future__ import annotations

import contextlib
import gc
import os
import sys

from clients.embedded import prestart as early


def main() -> None:
    _occupy_standard_streams()
    if early.likely(sys.argv[1:], os.environ):
        early.begin([early.service_module(role) for role in ("coordinator", "decoder", "copier")])
    run()


def _occupy_standard_streams() -> None:
    """What is opened next must not stand in for a standard stream that was closed."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def run() -> None:
    """Ends the process at once, without what the interpreter does for programs that leave something open.

    Imports make much, and nothing that could be given up: the collector need not look for it.
    """
    gc.disable()
    from clients.cli.app import cli

    try:
        cli(prog_name="pgmig-cli")
    except SystemExit as exc:
        if not isinstance(exc.code, int):
            raise
        early.forget()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # it was closed
                with contextlib.suppress(OSError):
                    stream.flush()
        os._exit(exc.code)


if __name__ == "__main__":
    main()
