"""stdout is data, stderr is talk.

Data is a table for people or JSON for programs: one document, or one a line from commands that
stream. Talk is progress, notes, `error:` and `hint:`; it passes redaction. Consoles are made
when used, since a test or a pipe may stand in for the streams.
"""

from __future__ import annotations

import contextlib
import json
import sys
from enum import StrEnum

from rich.console import Console, RenderableType
from rich.text import Text

from services.shared.model import PgmigError
from services.shared.model.redaction import redact

UNBOUNDED = 100_000
"""Width, in cells, of tables that go to a file or a pipe: nothing is wrapped or cut there."""


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


def stdout_console() -> Console:
    return _console(sys.stdout)


def stderr_console() -> Console:
    return _console(sys.stderr)


def _console(stream: object) -> Console:
    console = Console(file=stream, highlight=False, markup=False, emoji=False)  # type: ignore[arg-type]
    if not console.is_terminal:
        console.width = UNBOUNDED
    return console


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


def talk(what: Text) -> None:
    """To stderr. A terminal that has gone must not disturb what is being put away."""
    with contextlib.suppress(OSError):
        stderr_console().print(what, soft_wrap=True)


def say(text: str, style: str = "") -> None:
    talk(Text(redact(text), style))


def warn(text: str) -> None:
    _labelled("warning", redact(text), "yellow")


def print_error(exc: PgmigError) -> None:
    """The hint may show the form of a connection string; it is our own text, never a secret."""
    _labelled("error", redact(str(exc)), "bold red")
    if exc.hint:
        _labelled("hint", exc.hint, "cyan")


def _labelled(label: str, text: str, style: str) -> None:
    line = Text.assemble((f"{label}: ", style), " ".join(text.split()))
    talk(line)


class StderrTalk:
    """For commands that show nothing while they work."""

    def note(self, text: str) -> None:
        say(text)

    def warn(self, text: str) -> None:
        warn(text)

    def asking(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()
