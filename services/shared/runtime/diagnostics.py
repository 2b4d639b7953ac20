"""What a process writes to standard error outside its log (redacted), and how it ends."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from services.shared.model.redaction import redact


def report(text: str) -> None:
    """Write `text` and a line feed to standard error, unless it is closed or has no reader any more."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{redact(text)}\n")
            sys.stderr.flush()


def exit_code(exc: SystemExit) -> int:
    """The code by the rules of sys.exit(): a text is reported and means 1."""
    if exc.code is None or isinstance(exc.code, int):
        return exc.code or 0
    report(str(exc.code))
    return 1


def end_process(code: int) -> NoReturn:
    """End at once, without exit handlers and without the interpreter's clean-up."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it was closed
            with contextlib.suppress(OSError):
                stream.flush()
    os._exit(code)
