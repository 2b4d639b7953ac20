"""An application that writes to whichever side lets it, and what both sides must have in the end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self

import psycopg
from psycopg import conninfo, sql

from clients.session import Session
from services.shared.model import Operation, Phase, SwitchoverOptions
from tests.support.services.services import until_phase

IN_TIME = SwitchoverOptions(20_000)
WITH_REVERSE = SwitchoverOptions(20_000, reverse=True)
DDL = """
CREATE TABLE item (id int PRIMARY KEY, v int NOT NULL DEFAULT 0);
CREATE TABLE note (n bigserial PRIMARY KEY, id int NOT NULL, big text);
ALTER TABLE note ALTER big SET STORAGE EXTERNAL;
CREATE TABLE plain (id int, v text);
ALTER TABLE plain REPLICA IDENTITY FULL;
CREATE TABLE fired (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id int);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE);
CREATE SEQUENCE lone;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO public.fired (id) VALUES (NEW.id); RETURN NULL; END';
CREATE TRIGGER noted AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION note();
"""
TABLES = ("item", "note", "plain", "fired", "parent", "child")
SEQUENCES = ("note_n_seq", "fired_n_seq", "lone")
_STATEMENTS = (
    "INSERT INTO item VALUES (%(n)s)",
    "INSERT INTO note (id, big) VALUES (%(n)s, repeat('x', 3000))",
    "UPDATE item SET v = v + 1 WHERE id BETWEEN %(n)s - 3 AND %(n)s",
    "UPDATE note SET id = -id WHERE id = %(n)s - 2",
    "INSERT INTO plain VALUES (%(n)s %% 7, 'same'), (%(n)s %% 7, 'same')",
    "DELETE FROM plain WHERE ctid = (SELECT ctid FROM plain WHERE id = %(n)s %% 5 LIMIT 1)",
    "INSERT INTO parent VALUES (%(n)s)",
    "INSERT INTO child VALUES (%(n)s, %(n)s)",
    "DELETE FROM parent WHERE id = %(n)s - 9",
    "SELECT nextval('lone')",
)


class Application:
    """Use as a context manager. It asks for nothing special, so a side that is read-only by default refuses
    it. acknowledged: numbers whose transactions were committed, as far as it knows."""

    def __init__(self, *uris: str) -> None:
        self._uris = [conninfo.make_conninfo(uri, connect_timeout=5) for uri in uris]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="application")
        self.acknowledged: list[int] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for_more()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for_more(self, commits: int = 1, seconds: float = 90.0) -> None:
        """Return when further commits were acknowledged."""
        wanted, deadline = len(self.acknowledged) + commits, time.monotonic() + seconds
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < deadline, "nobody can write on either side"
            time.sleep(0.01)

    def _run(self) -> None:
        number = side = 0
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._uris[side], options="-c lock_timeout=2s") as conn:
                    while not self._stop.wait(0.002):
                        number += 1
                        for statement in _STATEMENTS:
                            conn.execute(statement, {"n": number})
                        conn.commit()
                        self.acknowledged.append(number)
            except psycopg.Error:
                side = (side + 1) % len(self._uris)
                self._stop.wait(0.02)


def differences(one: str, other: str, *, sequences: bool = True) -> list[str]:
    """Tables whose rows differ, and sequences whose values do."""
    found = []
    with psycopg.connect(one) as here, psycopg.connect(other) as there:
        for table in TABLES:
            query = sql.SQL("SELECT x::text, count(*) FROM {} x GROUP BY 1 ORDER BY 1").format(
                sql.Identifier(table)
            )
            if here.execute(query).fetchall() != there.execute(query).fetchall():
                found.append(table)
        for name in SEQUENCES if sequences else ():
            query = sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(name))
            if here.execute(query).fetchall() != there.execute(query).fetchall():
                found.append(name)
    return found


def missing(uri: str, acknowledged: Sequence[int]) -> set[int]:
    """Acknowledged transactions that this side lacks."""
    with psycopg.connect(uri) as conn:
        return set(acknowledged) - {row[0] for row in conn.execute("SELECT id FROM item")}


def doubled(uri: str) -> list[tuple[object, ...]]:
    """Rows that a trigger, or a second application of a transaction, has written twice."""
    with psycopg.connect(uri) as conn:
        return conn.execute("SELECT id, count(*) FROM fired GROUP BY id HAVING count(*) > 1").fetchall()


def writable(uri: str) -> bool:
    """Whether an application can write there that asks for nothing special."""
    try:
        with psycopg.connect(conninfo.make_conninfo(uri, connect_timeout=5)) as conn:
            conn.execute("CREATE TABLE written (); DROP TABLE written")
    except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction):
        return False
    return True


async def ended(session: Session, operation: Operation) -> Operation:
    async with aclosing(session.follow_operation(operation.operation_id, reached=True)) as states:
        return [state async for state in states][-1]


async def there(session: Session, options: SwitchoverOptions = WITH_REVERSE) -> Operation:
    """Switch over; return the operation when it has ended."""
    return await ended(session, await session.begin_switchover("m", options))


async def back(session: Session, options: SwitchoverOptions = IN_TIME) -> Operation:
    return await ended(session, await session.begin_rollback("m", options))


async def started(session: Session, source: str, dest: str, **options: object) -> None:
    """Migration m streams."""
    from services.shared.model import MigrationOptions

    await session.start("m", source, dest, MigrationOptions(follow=True, **options))  # type: ignore[arg-type]
    await until_phase(session, "m", Phase.STREAMING)


async def equal_soon(one: str, other: str, *, sequences: bool = False, seconds: float = 60.0) -> None:
    """Return when both sides have the same rows. Nobody writes any more."""
    deadline = time.monotonic() + seconds
    while found := await asyncio.to_thread(differences, one, other, sequences=sequences):
        assert time.monotonic() < deadline, f"different for too long: {found}"
        await asyncio.sleep(0.1)
