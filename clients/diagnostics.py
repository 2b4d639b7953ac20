"""The only module that writes to a person's standard error: progress, notes, `error:` and `hint:`.

All text is redacted. Standard output is for a command's data and is not written here.
Consoles are created when used, since a test or a pipe may replace the streams.
"""

from __future__ import annotations

import contextlib
import sys

from rich.console import Console
from rich.text import Text

from services.shared.model import PgmigError
from services.shared.model.redaction import redact

UNBOUNDED = 100_000
"""Width in cells for a file or a pipe, so that nothing is wrapped or cut."""


def console(stream: object) -> Console:
    made = Console(file=stream, highlight=False, markup=False, emoji=False)  # type: ignore[arg-type]
    if not made.is_terminal:
        made.width = UNBOUNDED
    return made


def stderr_console() -> Console:
    return console(sys.stderr)


def can_ask() -> bool:
    """Whether a person can read a question on standard error and answer it."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def has_terminal() -> bool:
    """Whether keys can be read and a screen can be drawn, which is done on standard error."""
    return all(stream is not None and stream.isatty() for stream in (sys.__stdin__, sys.__stderr__))


def talk(what: Text) -> None:
    """Print to standard error. If the terminal is gone, this must not disturb the clean-up."""
    with contextlib.suppress(OSError):
        stderr_console().print(what, soft_wrap=True)


def say(text: str, style: str = "") -> None:
    talk(Text(redact(text), style))


def warn(text: str) -> None:
    _labelled("warning", redact(text), "yellow")


def print_error(exc: PgmigError) -> None:
    """Print an error and its hint. A hint may show the form of a connection string, but never a secret."""
    _labelled("error", redact(str(exc)), "bold red")
    if exc.hint:
        _labelled("hint", exc.hint, "cyan")


def _labelled(label: str, text: str, style: str) -> None:
    line = Text.assemble((f"{label}: ", style), " ".join(text.split()))
    talk(line)


class StderrTalk:
    """For commands that show no progress while they work."""

    def note(self, text: str) -> None:
        say(text)

    def warn(self, text: str) -> None:
        warn(text)

    def asking(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()
