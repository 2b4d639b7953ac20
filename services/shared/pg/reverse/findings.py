"""What is in the way of a pipeline that starts without a copy, or what an operator should know about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from services.shared.model import PgmigError
from services.shared.pg.catalog.server import listing


@dataclass(frozen=True, slots=True)
class Finding:
    """blocking: the pipeline could not run, or the rows of both sides would differ. Otherwise a warning.
    remedy: what the operator can do."""

    blocking: bool
    problem: str
    remedy: str


@dataclass(slots=True)
class Findings:
    """Collects findings in the order in which they are found."""

    found: list[Finding] = field(default_factory=list)

    def block(self, problem: str, remedy: str) -> None:
        self.found.append(Finding(True, problem, remedy))

    def warn(self, problem: str, remedy: str) -> None:
        self.found.append(Finding(False, problem, remedy))

    def refuse(self, errors: Iterable[PgmigError | None]) -> None:
        """Errors of other checks block."""
        for error in errors:
            if error is not None:
                self.block(error.message, error.hint)

    def block_for(self, what: str, names: Sequence[object], remedy: str) -> None:
        """One finding that lists `names`, if there are any."""
        if names:
            self.block(f"{what}: {listing(names)}", remedy)

    def warn_of(self, what: str, names: Sequence[object], remedy: str) -> None:
        if names:
            self.warn(f"{what}: {listing(names)}", remedy)

    def sorted(self) -> tuple[Finding, ...]:
        """The blocking ones first."""
        return tuple(sorted(self.found, key=lambda one: not one.blocking))
