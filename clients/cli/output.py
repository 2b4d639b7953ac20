"""A command's data on standard output: a table for people or JSON for programs.

JSON is one document. Commands that stream print one document per line. Everything that is not data is
printed to standard error: see `clients.diagnostics`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from enum import StrEnum

from rich.console import Console, RenderableType

from clients.diagnostics import console


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


def stdout_console() -> Console:
    return console(sys.stdout)


def print_table(renderable: RenderableType) -> None:
    """Print a table to stdout. Trailing blanks are removed unless stdout is a terminal."""
    console = stdout_console()
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as captured:
        console.print(renderable)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())
    sys.stdout.flush()


def print_lines(lines: Iterable[str]) -> None:
    """Print plain text to stdout, as it is."""
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def print_json(document: object, *, line: bool = False) -> None:
    """Print JSON to stdout. line: compact, on one line."""
    text = json.dumps(document, ensure_ascii=False, indent=None if line else 2)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
