"""A command's data, on standard output: a table for people or JSON for programs.

JSON is one document, or one a line from commands that stream. What is not data goes to standard error:
see `clients.diagnostics`.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum

from rich.console import Console, RenderableType

from clients.diagnostics import console


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


def stdout_console() -> Console:
    return console(sys.stdout)


def print_table(renderable: RenderableType) -> None:
    """A person's output, to stdout; without trailing blanks where it is not a terminal."""
    console = stdout_console()
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as captured:
        console.print(renderable)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())
    sys.stdout.flush()


def print_json(document: object, *, line: bool = False) -> None:
    """A program's output, to stdout; line: compact, flushed at once."""
    text = json.dumps(document, ensure_ascii=False, indent=None if line else 2)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
