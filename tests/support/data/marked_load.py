"""Writers whose transactions prove afterwards how they were applied.

Every transaction of connection c has a serial, and
- inserts `copies` equal rows into `marks`, which has no key: so one row too many or too few is detected,
- moves money between accounts, so that the sum is the same after each transaction, and not inside,
- perhaps takes the next tick of a clock that all connections share, which orders their commits,
- records all that in its row of `counters`, which a trigger copies to `history`, on both sides:
  on the source what was committed, on the destination what was applied, when, and by which
  transaction there.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from random import Random

import psycopg

from services.shared.model import TableId

DDL = """
CREATE TABLE marks (conn int, serial int, padding text);
ALTER TABLE marks REPLICA IDENTITY FULL;
CREATE TABLE accounts (id int PRIMARY KEY, balance numeric NOT NULL, seat int UNIQUE, big text);
ALTER TABLE accounts ALTER big SET STORAGE EXTERNAL;
CREATE TABLE clock (id int PRIMARY KEY, tick int NOT NULL);
CREATE TABLE counters (conn int PRIMARY KEY, serial int NOT NULL, copies int NOT NULL, tick int);
CREATE TABLE history (seq bigserial PRIMARY KEY, conn int, serial int, copies int, tick int, xid xid);
CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
    INSERT INTO history (conn, serial, copies, tick, xid)
    VALUES (NEW.conn, NEW.serial, NEW.copies, NEW.tick, pg_current_xact_id()::xid);
    RETURN NULL;
END $$;
CREATE TRIGGER remember AFTER UPDATE ON counters FOR EACH ROW EXECUTE FUNCTION remember();
ALTER TABLE counters ENABLE ALWAYS TRIGGER remember;
"""
TABLES = tuple(TableId("public", name) for name in ("marks", "accounts", "clock", "counters"))
ACCOUNTS = 40
START = f"""
INSERT INTO accounts SELECT n, 100, n, repeat(md5(n::text), 90) FROM generate_series(1, {ACCOUNTS}) n;
INSERT INTO clock VALUES (1, 0);
INSERT INTO counters SELECT n, 0, 0, NULL FROM generate_series(0, 31) n;
"""
TOTAL = 100 * ACCOUNTS

_PAUSE_S = 0.003
_OPTIONS = "-c lock_timeout=500ms -c deadlock_timeout=5ms"


class _GoneError(Exception):
    """An account was deleted and opened again since this transaction read it."""


_CONFLICTS = (
    _GoneError,
    psycopg.errors.UniqueViolation,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
)


class MarkedLoad:
    """Writer threads between `__enter__` and `stop`. They continue after the source was unreachable."""

    def __init__(self, uri: str, seed: int, connections: int = 4) -> None:
        self._uri = uri
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(n, Random(f"{seed}/{n}")), name=f"writer {n}")
            for n in range(connections)
        ]

    def __enter__(self) -> MarkedLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def stop(self) -> None:
        """Return when all writers have finished their transactions. Raises the error of a failed one."""
        self._end()
        if self._failures:
            raise self._failures[0]

    def _end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, random: Random) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._session(number, random)
                except psycopg.OperationalError:
                    self._stop.wait(0.1)  # the source cannot be reached
        except BaseException as exc:
            self._failures.append(exc)

    def _session(self, number: int, random: Random) -> None:
        with psycopg.connect(self._uri, options=_OPTIONS, connect_timeout=5) as conn:
            row = conn.execute("SELECT serial FROM counters WHERE conn = %s", [number]).fetchone()
            conn.rollback()
            assert row is not None
            serial = row[0]  # of the last transaction that committed
            while not self._stop.wait(_PAUSE_S):
                try:
                    serial += transact(conn, random, number, serial + 1)
                except _CONFLICTS:
                    conn.rollback()


def transact(conn: psycopg.Connection, random: Random, number: int, serial: int) -> bool:
    """Run one transaction. Returns whether it was committed."""
    copies = random.choice((1, 2, 3, 8))
    changes = random.choices((_transfer, _transfer, _reseat, _reopen, _widen), k=random.randint(0, 5))
    for n, change in enumerate(changes):
        change(conn, random)
        if random.random() < 0.15:
            _undo(conn, random, number, serial, n)
    _mark(conn, number, serial, copies)
    tick = None
    if random.random() < 0.5:
        row = conn.execute("UPDATE clock SET tick = tick + 1 RETURNING tick").fetchone()
        assert row is not None
        tick = row[0]
    conn.execute(
        "UPDATE counters SET serial = %s, copies = %s, tick = %s WHERE conn = %s",
        [serial, copies, tick, number],
    )
    if random.random() < 0.1:
        conn.rollback()
        return False
    conn.commit()
    return True


LARGE_CONN = 31


def large_transaction(uri: str, serial: int) -> None:
    """Run a transaction of many batches and more than one part, in its own connection."""
    with psycopg.connect(uri) as conn:
        while True:
            _mark(conn, LARGE_CONN, serial, 30_000, "large " * 15)
            first = conn.execute("UPDATE accounts SET balance = balance + 5 WHERE id = 1")
            _mark(conn, LARGE_CONN, serial, 500)
            second = conn.execute("UPDATE accounts SET balance = balance - 5 WHERE id = 2")
            if first.rowcount and second.rowcount:
                break
            conn.rollback()  # an account was deleted and opened again since this transaction read it
        conn.execute("UPDATE counters SET serial = %s, copies = 30500 WHERE conn = %s", [serial, LARGE_CONN])


def _mark(conn: psycopg.Connection, number: int, serial: int, copies: int, padding: str = "same") -> None:
    conn.execute(
        "INSERT INTO marks SELECT %s, %s, %s FROM generate_series(1, %s)", [number, serial, padding, copies]
    )


def _undo(conn: psycopg.Connection, random: Random, number: int, serial: int, n: int) -> None:
    """Changes after a savepoint, which are then rolled back."""
    conn.execute(f"SAVEPOINT s{n}")
    _mark(conn, number, serial, 2)
    _transfer(conn, random)
    conn.execute(f"ROLLBACK TO s{n}")


def _two(random: Random) -> Sequence[int]:
    """Two accounts, the smaller first, so that no deadlock is possible."""
    return sorted(random.sample(range(1, ACCOUNTS + 1), 2))


def _transfer(conn: psycopg.Connection, random: Random) -> None:
    amount = random.randint(-50, 50)
    for account, change in zip(_two(random), (amount, -amount), strict=True):
        done = conn.execute("UPDATE accounts SET balance = balance + %s WHERE id = %s", [change, account])
        if done.rowcount == 0:
            raise _GoneError


def _reseat(conn: psycopg.Connection, random: Random) -> None:
    """Two accounts exchange their seats, which are unique, by way of a third one."""
    one, two = _two(random)
    spare = random.randint(1000, 10**9)
    rows = conn.execute(
        "SELECT seat FROM accounts WHERE id = ANY (%s) ORDER BY id FOR UPDATE", [[one, two]]
    ).fetchall()
    if len(rows) < 2:
        raise _GoneError
    for account, seat in ((one, spare), (two, rows[0][0]), (one, rows[1][0])):
        conn.execute("UPDATE accounts SET seat = %s WHERE id = %s", [seat, account])


def _reopen(conn: psycopg.Connection, random: Random) -> None:
    """An account is deleted, and opened again with the same values, except for its big value."""
    account = random.randint(1, ACCOUNTS)
    row = conn.execute("DELETE FROM accounts WHERE id = %s RETURNING balance, seat", [account]).fetchone()
    if row is None:
        raise _GoneError
    conn.execute("INSERT INTO accounts VALUES (%s, %s, %s, %s)", [account, *row, "y" * 2500])


def _widen(conn: psycopg.Connection, random: Random) -> None:
    value = str(random.random()) * 200
    conn.execute("UPDATE accounts SET big = %s WHERE id = %s", [value, random.randint(1, ACCOUNTS)])
