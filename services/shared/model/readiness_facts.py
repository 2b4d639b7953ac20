"""What is known about a migration and both servers, and the limits that it is compared with.

`services.shared.model.readiness` decides from it whether the migration can be switched over.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.model.lifecycle.shown_phase import Phase
from services.shared.model.tables.table import TableId
from services.shared.model.view.failure import Failure
from services.shared.model.view.readiness import LagLimit

NO_SPECIAL_LAG = LagLimit()


@dataclass(frozen=True, slots=True)
class OldTransaction:
    """session: process id, application and role, for messages. locked: tables of the migration that it has
    locked such that nobody else may write to all of them."""

    session: str
    seconds: int
    locked: tuple[TableId, ...] = ()


@dataclass(frozen=True, slots=True)
class SequenceUse:
    """used: the share of the sequence's values that are used up, from 0 to 1."""

    sequence: TableId
    used: float


@dataclass(frozen=True, slots=True)
class ForeignWriter:
    """A session that is not pgmig's and was seen with a lock for writing on a table. at: Unix seconds."""

    session: str
    table: TableId
    at: float


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """prepared, not_endable, subscriptions: lists for messages, "" if there are none. hidden: number of
    sessions that our role sees without their transactions."""

    prepared: str = ""
    not_endable: str = ""
    subscriptions: str = ""
    hidden: int = 0
    transactions: tuple[OldTransaction, ...] = ()
    sequences: tuple[SequenceUse, ...] = ()


@dataclass(frozen=True, slots=True)
class DestinationFacts:
    """missing: tables of the migration that do not exist. invalid: invalid indexes, which are valid on the
    source. writers: seen within the last minutes. unguarded: why others may be able to write although they
    are kept out, for messages. written: writes of others that were recorded. guarding: pipelines of other
    migrations that keep the database read-only by default. no_standby: none counts, although changes are
    confirmed only after standbys have them."""

    missing: tuple[TableId, ...] = ()
    invalid: tuple[TableId, ...] = ()
    writers: tuple[ForeignWriter, ...] = ()
    unguarded: str = ""
    written: tuple[ForeignWriter, ...] = ()
    guarding: tuple[str, ...] = ()
    no_standby: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """How up to date the facts of a server are. age_s: since they were read; None if they never were.
    error: why the last attempt to read them failed."""

    age_s: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """transaction_s: age from which a transaction counts as long. sequence_used: share of the values of a
    sequence. facts_s: age from which facts count as out of date."""

    lag: LagLimit = NO_SPECIAL_LAG
    transaction_s: int = 10
    sequence_used: float = 0.9
    facts_s: float = 90.0


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class ReadinessFacts:
    """failure: why the migration stopped. uncopied: tables that are not copied yet, of `tables` tables.
    applier_error: why the last attempt of an applier failed. unreplicated: tables of the source that were
    created since and are not replicated. others_may_write: to the destination, as the operator wants."""

    migration_id: str
    phase: Phase
    follow: bool = True
    failure: Failure | None = None
    needs_credentials: bool = False
    slot_lost: bool = False
    tables: int = 0
    uncopied: tuple[TableId, ...] = ()
    indexes: int = 0
    indexes_done: int = 0
    applier_live: bool = False
    applier_error: str = ""
    lag_bytes: int = 0
    lag_seconds: float = 0.0
    unreplicated: tuple[TableId, ...] = ()
    others_may_write: bool = False
    source: SourceFacts = SourceFacts()
    source_seen: Seen = Seen()
    destination: DestinationFacts = DestinationFacts()
    destination_seen: Seen = Seen()
