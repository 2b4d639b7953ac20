"""The part of the record about hooks that were started and poolers that are paused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from services.coordinator.migration.record import HandoverRecord


class HandoverLog:
    """Each change is a method that says what happens. read, write: of the record."""

    def __init__(self, read: Callable[[], HandoverRecord], write: Callable[[HandoverRecord], None]) -> None:
        self._read, self._write = read, write

    @property
    def paused(self) -> tuple[str, ...]:
        """Poolers that are paused, or may be: connection strings without passwords."""
        return self._read().paused

    def hook_started(self, operation_id: str) -> bool:
        """Whether the hook before the freeze was started for this operation."""
        handover = self._read()
        return handover.operation_id == operation_id and handover.hook_started

    def concluded(self, operation_id: str) -> bool:
        """Whether the hook after this operation has ended."""
        handover = self._read()
        return handover.operation_id == operation_id and handover.concluded

    def hook_expected(self, operation_id: str) -> bool:
        """Whether its poolers were paused for a hook after the decision."""
        handover = self._read()
        return handover.operation_id == operation_id and handover.hook_expected

    def hook_succeeded(self, operation_id: str) -> bool:
        """Whether the hook after this operation has succeeded."""
        handover = self._read()
        return handover.operation_id == operation_id and handover.hook_succeeded

    def starting_hook(self, operation_id: str) -> None:
        self._write(replace(self._of(operation_id), hook_started=True))

    def pausing(self, operation_id: str, poolers: tuple[str, ...], *, hook_expected: bool) -> None:
        """hook_expected: a hook after the decision will lead them to the destination."""
        handover = self._of(operation_id)
        paused = tuple(dict.fromkeys((*handover.paused, *poolers)))
        self._write(replace(handover, paused=paused, hook_expected=hook_expected))

    def resumed(self, pooler: str) -> None:
        """It is not paused any more, or an operator has to resume it."""
        handover = self._read()
        self._write(replace(handover, paused=tuple(one for one in handover.paused if one != pooler)))

    def concluding(self, operation_id: str, *, succeeded: bool) -> None:
        """The hook after the operation has ended."""
        self._write(replace(self._of(operation_id), concluded=True, hook_succeeded=succeeded))

    def _of(self, operation_id: str) -> HandoverRecord:
        """Poolers that an earlier operation could not resume stay recorded."""
        handover = self._read()
        if handover.operation_id == operation_id:
            return handover
        return HandoverRecord(operation_id, paused=handover.paused)
