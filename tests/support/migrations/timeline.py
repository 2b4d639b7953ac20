"""The output of the demo: a line for each event, and on a terminal a last line that changes."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text


class Timeline:
    """A context manager. Seconds count from its creation."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        if not self._console.is_terminal:
            self._console.width = 200  # a log is not wrapped
        self._began = time.monotonic()
        self._status = Status("", console=self._console)

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    @property
    def elapsed(self) -> float:
        """Seconds."""
        return time.monotonic() - self._began

    def now(self, text: str) -> None:
        """What happens at this moment. Only a terminal shows it."""
        self._status.update(Text(text, "dim"))

    def say(self, what: str, text: str, style: str = "") -> None:
        """A line that stays: when, what, and the details."""
        line = Text(f"{self.elapsed:6.1f} s  ", "dim")
        line.append(f"{what:<12}", "bold").append(f" {text}", style)
        self._print(line)

    def command(self, line: str) -> None:
        """The command that a user would type."""
        self.say("$", line, "cyan")

    def passed(self, text: str) -> None:
        self._print(Text.assemble(" " * 10, ("✔ ", "green"), text))

    def failed(self, text: str, problems: tuple[str, ...] = ()) -> None:
        self._print(Text.assemble(" " * 10, ("✘ ", "bold red"), text))
        for problem in problems:
            self._print(Text(f"{' ' * 12}{problem}", "red"))

    def table(self, rows: list[tuple[str, str, str]]) -> None:
        """Phases: name, seconds, particulars."""
        table = Table("phase", "seconds", "", box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.columns[1].justify = "right"
        for row in rows:
            table.add_row(*map(Text, row))
        self._console.print()
        self._console.print(table)
        self._console.print()

    def verdict(self, passed: bool, text: str) -> None:
        word, style = ("PASSED", "bold green") if passed else ("FAILED", "bold red")
        self._print(Text.assemble((word, style), f"  {text}"))

    def _print(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True)
