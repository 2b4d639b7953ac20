"""One worker of the writer: it runs transactions over two connections, and records their outcomes."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import errors

from tests.support.data.operations import Operation, Session, any_operation, move, write_audit, write_events

_CONNECT_TIMEOUT_S = 5
_OPTIONS = "-c lock_timeout=5s"
_INTERLEAVED_SHARE = 0.08
_ROLLED_BACK_SHARE = 0.04
_CONFLICTS = (errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable)


@dataclass(slots=True)
class Tally:
    """The outcome of one worker's transactions, by marker. Only the worker's thread changes it.

    last_commit_at: Unix seconds of the last acknowledged commit.
    """

    acknowledged: list[str] = field(default_factory=list)
    rolled_back: list[str] = field(default_factory=list)
    conflicts: int = 0
    last_commit_at: float = 0.0


class Worker:
    """Chooses transactions with a seeded random generator. name: unique among all workers ever run."""

    def __init__(self, uri: str, name: str, number: int, seed: int, operations: Sequence[Operation]) -> None:
        self.tally = Tally()
        self._uri = uri
        self._name = name
        self._number = number
        self._random = random.Random(f"{seed}/{number}")
        self._operations = operations
        self._serial = 0
        self._drawn = 0

    @contextmanager
    def connected(self) -> Iterator[tuple[Session, Session]]:
        """Sessions for `transact`: the worker's own, and a second one to interleave with."""
        with self._connection() as connection, self._connection() as partner:
            first, second = self._session(connection), self._session(partner)
            first.serial = self._drawn  # names must differ from those used before a reconnect
            try:
                yield first, second
            finally:
                self._drawn = first.serial

    def transact(self, own: Session, partner: Session) -> None:
        """Run one transaction, or two interleaved ones. Raises psycopg.Error if cut off."""
        draw = self._random.random()
        try:
            if draw < _INTERLEAVED_SHARE and not self._operations:
                self._interleave(own, partner)
            elif draw < _INTERLEAVED_SHARE + _ROLLED_BACK_SHARE:
                self._roll_back(own)
            else:
                marker = self._begin(own, self._draw())
                self._commit(own, marker)
        except _CONFLICTS:
            self.tally.conflicts += 1
            own.connection.rollback()
            partner.connection.rollback()

    def _interleave(self, own: Session, partner: Session) -> None:
        """`own` begins before `partner` and commits after it, having changed the same two rows.

        Until `partner` has committed, `own` holds no lock that another worker waits for while it
        holds one that `partner` needs: the server could not see such a deadlock.
        """
        source, target = own.random.sample(range(1, own.accounts + 1), 2)

        def move_between(session: Session) -> None:
            move(session, source, target)

        outer = self._begin(own, write_audit)
        write_events(own)
        inner = self._begin(partner, move_between)
        self._commit(partner, inner)
        move_between(own)
        self._commit(own, outer)

    def _begin(self, session: Session, operation: Operation) -> str:
        """A transaction up to its commit; the marker comes first, so that its xid is early."""
        self._serial += 1
        marker = f"{self._name}-{self._serial}"
        session.do("INSERT INTO shop.markers (id, operation) VALUES (%s, %s)", marker, operation.__name__)
        operation(session)
        return marker

    def _commit(self, session: Session, marker: str) -> None:
        session.connection.commit()
        self.tally.acknowledged.append(marker)
        self.tally.last_commit_at = time.time()

    def _roll_back(self, session: Session) -> None:
        marker = self._begin(session, self._draw())
        session.connection.rollback()
        self.tally.rolled_back.append(marker)

    def _draw(self) -> Operation:
        return self._random.choice(self._operations) if self._operations else any_operation(self._random)

    def _connection(self) -> psycopg.Connection:
        return psycopg.connect(
            self._uri,
            application_name=f"writer {self._name}",
            connect_timeout=_CONNECT_TIMEOUT_S,
            options=_OPTIONS,
        )

    def _session(self, connection: psycopg.Connection) -> Session:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM shop.accounts WHERE code LIKE 'A%'),"
            " (SELECT coalesce(max(id), 0) FROM shop.orders)"
        ).fetchone()
        connection.commit()
        assert row is not None
        accounts, last_order = row
        return Session(connection, self._name, self._number, accounts, last_order, self._random)
