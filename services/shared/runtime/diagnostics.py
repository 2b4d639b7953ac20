"""What a process says on standard error outside its log, and how it ends. What is said passes redaction."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from services.shared.model.redaction import redact


def report(text: str) -> None:
    """`text` and a line feed to standard error, unless that is closed or nobody reads it any more."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{redact(text)}\n")
            sys.stderr.flush()


def exit_code(exc: SystemExit) -> int:
    """By the rules of sys.exit(): a text is reported and means 1."""
    if exc.code is None or isinstance(exc.code, int):
        return exc.code or 0
    report(str(exc.code))
    return 1


def end_process(code: int) -> NoReturn:
    """End at once: without exit handlers, and without what the interpreter puts away at its end."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it was closed
            with contextlib.suppress(OSError):
                stream.flush()
    os._exit(code)
