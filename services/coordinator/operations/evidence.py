"""What a switchover has seen, for its certificate.

The certificate claims only what was checked: each step adds a check here after it has passed. A switchover is
not decided before all checks that its freeze mode requires have been made.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.shared.model import ErrorKind, Lsn, PgmigError, TableId, counted
from services.shared.model.readiness_facts import ForeignWriter
from services.shared.model.view.certificate import (
    CertifiedCheck,
    CertifiedConstraint,
    CertifiedServer,
    CheckName,
    CheckOutcome,
)
from services.shared.pg.catalog.sequences import SequenceValue

_OF_A_FREEZE = frozenset(
    {
        CheckName.LOCKS_HELD,
        CheckName.DATABASE_CLOSED,
        CheckName.NO_SESSION_LEFT,
        CheckName.NO_PREPARED_TRANSACTION,
    }
)
_OF_NO_FREEZE = frozenset({CheckName.NO_OPEN_TRANSACTION})
_ALWAYS = frozenset(
    {
        CheckName.NOTHING_BEHIND_SENTINEL,
        CheckName.DESTINATION_PROGRESS,
        CheckName.TABLES_EQUAL,
        CheckName.INDEXES_VALID,
        CheckName.SEQUENCES_EQUAL,
        CheckName.UNLOGGED_TABLES,
        CheckName.DESTINATION_UNWRITTEN,
    }
)
_WHY_NOT = {
    CheckName.UNLOGGED_TABLES: "changes of unlogged tables are not replicated back",
    CheckName.TRUNCATE: "the source replicates TRUNCATE",
    CheckName.UNPUBLISHED: "there are none, or the migration's options leave them out",
}
_WRITTEN = "others have written there, as the migration's options allow: see destination_writes"
_NO_FREEZE = "the switchover blocked nobody, as requested"
_FREEZE = "the database was closed instead, and all its sessions were ended"


@dataclass(slots=True)
class Evidence:
    """blocks: whether writers were blocked. copied: the pipeline began with a copy, and so unlogged tables
    have its rows. blocked_at, closed_at: Unix seconds by the coordinator's clock;
    0.0 for not. sentinel: the end of the first sentinel's transaction. progress: of the destination, as read
    there after the second sentinel. sequences: those whose values were verified. written: writes of others to
    the destination, which the migration's options accept."""

    blocks: bool = True
    copied: bool = True
    blocked_at: float = 0.0
    closed_at: float = 0.0
    sentinel: Lsn = Lsn(0)
    progress: Lsn = Lsn(0)
    source: CertifiedServer | None = None
    destination: CertifiedServer | None = None
    sequences: tuple[SequenceValue, ...] = ()
    unlogged: tuple[TableId, ...] = ()
    not_valid: tuple[CertifiedConstraint, ...] = ()
    written: tuple[ForeignWriter, ...] = ()
    _made: dict[CheckName, str] = field(default_factory=dict)

    def passed(self, name: CheckName, detail: str = "") -> None:
        """The check was made, and has passed. A check that only the other freeze mode makes is ignored."""
        if name not in (_OF_NO_FREEZE if self.blocks else _OF_A_FREEZE):
            self._made[name] = detail

    def sequences_equal(self, values: tuple[SequenceValue, ...], equal: int) -> None:
        """equal: how many of them the destination has with the same value."""
        if equal == len(values):
            self.sequences = values
            self.passed(CheckName.SEQUENCES_EQUAL, counted(equal, "sequence"))

    def destination_written(self, found: tuple[ForeignWriter, ...]) -> None:
        """found: writes of others that prevent no switchover."""
        self.written = found
        if not found:
            self.passed(CheckName.DESTINATION_UNWRITTEN, "no write of others was found")

    def progressed(self, progress: Lsn | None, sentinel: Lsn) -> None:
        """progress: as read on the destination. sentinel: the end of the second sentinel's transaction.

        Raises SWITCHOVER_FAILED if the destination has not reached it, whatever its applier has reported.
        """
        if progress is None or progress < sentinel:
            raise PgmigError(
                ErrorKind.SWITCHOVER_FAILED,
                f"the applier has confirmed {sentinel}, but the progress on the destination is "
                f"{progress or 'not known'}",
                "writes are not blocked any more; see that one applier works for the migration, and that "
                "nobody resets its replication origin or the schema pgmig; then switch over again",
            )
        self.progress = progress
        self.passed(CheckName.DESTINATION_PROGRESS, f"{progress} is at or after {sentinel}")

    def check_complete(self) -> None:
        """Raises INTERNAL if a check was not made that every switchover in this mode makes."""
        required = _ALWAYS | (_OF_A_FREEZE if self.blocks else _OF_NO_FREEZE)
        if self.written:
            required -= {CheckName.DESTINATION_UNWRITTEN}
        if not self.copied:
            required -= {CheckName.UNLOGGED_TABLES}
        lacking = sorted(required - self._made.keys())
        if lacking or self.source is None or self.destination is None:
            raise PgmigError(
                ErrorKind.INTERNAL,
                f"the switchover cannot be certified: {', '.join(lacking) or 'servers'} not checked",
                "this is a defect of pgmig; writes are not blocked any more",
            )

    def checks(self) -> tuple[CertifiedCheck, ...]:
        """Every check, in the order of their names' definition."""
        return tuple(map(self._check, CheckName))

    def _check(self, name: CheckName) -> CertifiedCheck:
        if name in self._made:
            return CertifiedCheck(name, CheckOutcome.PASSED, self._made[name])
        if name is CheckName.DESTINATION_UNWRITTEN:
            return CertifiedCheck(name, CheckOutcome.NOT_MADE, _WRITTEN)
        why = _WHY_NOT.get(name) or (_FREEZE if name in _OF_NO_FREEZE else _NO_FREEZE)
        return CertifiedCheck(name, CheckOutcome.NOT_MADE, why)
