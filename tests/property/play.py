"""Playing a history on the source: several connections, transactions that interleave, and a record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from random import Random

import psycopg
from psycopg.pq import TransactionStatus

from tests.property.schema import Schema, draw_schema
from tests.property.steps import draw_change, large_change

CONNECTIONS = 3
LOCK_TIMEOUT_MS = 3
"""One thread drives all connections of a history, so a wait for another connection would never end."""

_OPTIONS = (
    f"-c lock_timeout={LOCK_TIMEOUT_MS} -c search_path=public -c TimeZone=UTC -c client_min_messages=warning"
)


@contextmanager
def connections(uri: str) -> Iterator[list[psycopg.Connection]]:
    """Autocommit, for the histories that one thread plays one after the other."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                psycopg.connect(uri, autocommit=True, options=_OPTIONS, prepare_threshold=None)
            )
            for _ in range(CONNECTIONS)
        ]


@dataclass(slots=True)
class History:
    """log: statements as they were run, each behind its connection's number, errors with them."""

    seed: int
    steps: int
    random: Random
    schema: Schema
    log: list[str] = field(default_factory=list)

    @classmethod
    def draw(cls, seed: int, steps: int) -> History:
        """The history of `seed`, cut after `steps` steps; 0: as long as it is."""
        random = Random(seed)
        schema = draw_schema(random, seed)
        drawn = random.choice((8, 20, 40, 40, 60))
        return cls(seed, min(drawn, steps or drawn), random, schema)

    def play(self, connections: list[psycopg.Connection]) -> None:
        """Run it to its end; every transaction is then committed or rolled back."""
        players = [_Player(n, connection, self) for n, connection in enumerate(connections)]
        if self.random.random() < 0.05:
            for statement in large_change(self.random, self.schema):
                players[0].run(statement)
        for _ in range(self.steps):
            self.random.choice(players).step()
        self.random.shuffle(players)
        for player in players:
            player.finish()

    def text(self) -> str:
        """What it did, for a person."""
        return "\n".join(
            [
                f"-- history {self.seed}: source",
                *(f"{statement};" for statement in self.schema.source),
                "-- destination",
                *(f"{statement};" for statement in self.schema.destination),
                "-- steps",
                *self.log,
            ]
        )


class _Player:
    """One connection and its transaction."""

    def __init__(self, number: int, connection: psycopg.Connection, history: History) -> None:
        self._number = number
        self._connection = connection
        self._history = history
        self._random = history.random
        self._savepoints: list[str] = []
        self._prepared = 0

    @property
    def _open(self) -> bool:
        return self._connection.info.transaction_status != TransactionStatus.IDLE

    def run(self, statement: str) -> bool:
        """Whether it succeeded. An open transaction goes back to its last savepoint, or ends."""
        try:
            self._connection.execute(statement.encode())
        except psycopg.Error as exc:
            self._history.log.append(
                f"/* {self._number} */ {statement}; -- {exc.sqlstate} {_first_line(exc)}"
            )
        else:
            self._history.log.append(f"/* {self._number} */ {statement};")
            return True
        if self._open:
            self.run(f"ROLLBACK TO {self._savepoints[-1]}" if self._savepoints else "ROLLBACK")
        return False

    def step(self) -> None:
        draw = self._random.random()
        if not self._open:
            self._savepoints.clear()
            if draw < 0.5:
                self.run("BEGIN")
            self._change()
        elif draw < 0.17:
            self._end()
        elif draw < 0.33:
            self._savepoint()
        else:
            self._change()

    def _change(self) -> None:
        for statement in draw_change(self._random, self._history.schema):
            self.run(statement)

    def _savepoint(self) -> None:
        draw = self._random.random()
        if self._savepoints and draw < 0.35:
            chosen = self._random.randrange(len(self._savepoints))
            self.run(f"ROLLBACK TO {self._savepoints[chosen]}")
            del self._savepoints[chosen + 1 :]
        elif self._savepoints and draw < 0.55:
            self.run(f"RELEASE {self._savepoints.pop()}")
        else:
            self._savepoints.append(f"s{len(self._savepoints)}")
            self.run(f"SAVEPOINT {self._savepoints[-1]}")

    def _end(self) -> None:
        draw = self._random.random()
        if draw < 0.2:
            self.run("ROLLBACK")
        elif draw < 0.3:
            self._two_phases()
        else:
            self.run("COMMIT")

    def _two_phases(self) -> None:
        self._prepared += 1
        name = f"{self._history.seed} {self._number} {self._prepared}"
        if self.run(f"PREPARE TRANSACTION '{name}'"):
            self.run(f"{self._random.choice(('COMMIT', 'COMMIT', 'ROLLBACK'))} PREPARED '{name}'")

    def finish(self) -> None:
        if self._open:
            self._savepoints.clear()
            self.run("ROLLBACK" if self._random.random() < 0.2 else "COMMIT")


def _first_line(exc: psycopg.Error) -> str:
    return (str(exc).splitlines() or [""])[0]
