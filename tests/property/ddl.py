"""An application that changes its tables while it writes to them, drawn from a seed.

Every step is drawn from its own number and from what the catalog says at that moment, so that a step
can be left out without changing what the others are drawn from. What the server refuses is left out
and noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import psycopg

from tests.property.ddl_steps import DDL, DML, Step, describe

GATE = 4711
"""The key of an advisory lock. While a session holds it on the destination, the copy of app.big waits."""

SETUP = (
    "CREATE SCHEMA app",
    f"CREATE FUNCTION app.gate() RETURNS boolean LANGUAGE plpgsql AS"
    f" 'BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared({GATE}); RETURN true; END'",
    "CREATE TABLE app.big (id int PRIMARY KEY, v text, CHECK (app.gate()))",
    "INSERT INTO app.big SELECT n, repeat('big', 500) FROM generate_series(1, 90) n",
    "CREATE TABLE app.a (id int PRIMARY KEY, c1 text, c2 numeric(10,2), c3 int)",
    "INSERT INTO app.a SELECT n, 'a' || n, n / 3.0, n FROM generate_series(1, 40) n",
    "CREATE TABLE app.b (id int PRIMARY KEY, c1 text, c2 numeric(10,2), c3 int)",
    "INSERT INTO app.b SELECT n, 'b' || n, n / 7.0, -n FROM generate_series(1, 20) n",
    "CREATE TABLE app.c (id int PRIMARY KEY, c1 varchar(5), c4 real)",
    "INSERT INTO app.c SELECT n, 'c' || n, n / 9.0 FROM generate_series(1, 15) n",
    "CREATE TABLE app.r (id int PRIMARY KEY, c1 text, c3 int) PARTITION BY RANGE (id)",
    "CREATE TABLE app.p0 PARTITION OF app.r FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE app.p1 PARTITION OF app.r FOR VALUES FROM (100) TO (200)",
    "INSERT INTO app.r SELECT n * 9, 'r' || n, n FROM generate_series(1, 20) n",
)


@dataclass(slots=True)
class Application:
    """One seed's. log: statements as they ran, with the numbers of their steps and with errors.

    ddl: those that changed a definition, for an operator who makes the same changes elsewhere.
    states: of every moment, once the first has been noted.
    """

    seed: int
    left_out: frozenset[int] = frozenset()
    log: list[str] = field(default_factory=list)
    ddl: list[str] = field(default_factory=list)
    number: int = 0
    states: list[State] = field(default_factory=list)

    def play(self, conn: psycopg.Connection, steps: int, definitions: float) -> None:
        """So many steps. definitions: how likely a step is one of DDL. conn: of autocommit."""
        for _ in range(steps):
            self.number += 1
            if self.number in self.left_out:
                continue
            random = Random(f"{self.seed}/{self.number}")
            ends = random.random() < 0.9
            parts = [self._draw(random, conn, definitions) for _ in range(random.choice((1, 1, 2)))]
            for step in parts if random.random() < 0.5 else [_joined(parts)]:
                if step is not None:
                    self._run(conn, step, commit=ends)

    def _draw(self, random: Random, conn: psycopg.Connection, definitions: float) -> Step | None:
        tables = describe(conn)
        if not tables:
            return None
        return random.choice(DDL if random.random() < definitions else DML)(random, tables)

    def _run(self, conn: psycopg.Connection, step: Step, *, commit: bool) -> None:
        if not step.together:
            for statement in step.statements:
                self._try(conn, (statement,), commit=True)
        else:
            self._try(conn, step.statements, commit=commit)

    def _try(self, conn: psycopg.Connection, statements: Sequence[str], *, commit: bool) -> None:
        text = f"/* {self.number} */ " + "; ".join(statements) + ";"
        try:
            if len(statements) == 1 and commit:
                conn.execute(statements[0].encode())
            else:
                with conn.transaction(force_rollback=not commit):
                    for statement in statements:
                        conn.execute(statement.encode())
        except psycopg.Error as exc:
            self.log.append(f"{text} -- {exc.sqlstate} {(str(exc).splitlines() or [''])[0]}")
            return
        self.log.append(text if commit else f"{text} -- rolled back")
        if commit:
            if self.states:
                self.states.append(state(conn))
            self.ddl += [one for one in statements if one.startswith(("ALTER", "CREATE", "DROP"))]


def _joined(steps: Sequence[Step | None]) -> Step | None:
    """Steps as one transaction, but for what cannot be in one."""
    found = [step for step in steps if step is not None]
    if len(found) < 2 or not all(step.together for step in found):
        return found[0] if found else None
    return Step(tuple(statement for step in found for statement in step.statements))


State = tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]


def state(conn: psycopg.Connection) -> State:
    """Every table that holds rows, with its columns and its rows, as they are at one moment."""
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        return tuple(
            (
                table.name,
                tuple(f"{name} {kind}" for name, kind in table.columns.items()),
                tuple(sorted(row[0] for row in conn.execute(f"SELECT t::text FROM {table.sql} t".encode()))),
            )
            for table in describe(conn)
            if table.kind == "r"
        )
