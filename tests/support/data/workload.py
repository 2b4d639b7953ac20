"""An application on the test schema: it writes during a migration and records what was committed.

Each worker thread commits transactions of several statements (tests.support.data.operations) over a
connection of its own. Every transaction inserts a marker row; a marker counts as acknowledged once
COMMIT has returned. A commit whose answer is lost with the connection is not acknowledged: it may
or may not be there. Some transactions are rolled back, some interleave (tests.support.data.worker).

A worker is cut off when its connection ends, its login is refused or the database is read-only. It then
tries for a short time to connect and write again, as applications do. If it is still refused, it ends.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psycopg
from psycopg import errors

from tests.support.data.operations import Operation
from tests.support.data.worker import Worker

_RETRY_PAUSE_S = 0.1
_CUT_OFF = (psycopg.OperationalError, errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege)


@dataclass(frozen=True, slots=True)
class WriterReport:
    """What a writer did.

    acknowledged, rolled_back: markers. conflicts: transactions given up for a deadlock or lock
    time-out. last_commit_at: Unix seconds of the last acknowledged commit, 0.0 if there is none.
    cut_off_by: the server's last refusal, empty when no worker was cut off.
    """

    acknowledged: tuple[str, ...]
    rolled_back: tuple[str, ...]
    conflicts: int
    last_commit_at: float
    cut_off_by: str


class Writer:
    """Writes from `start` until `stop`, or until it is cut off; usable as a context manager.

    rate: transactions per second in all, None for no limit. reconnect_for: seconds for
    which a worker that was cut off keeps trying before it ends. operations: only these, instead of a mixture
    of all with interleaving. seed: of the random choices.
    """

    def __init__(
        self,
        uri: str,
        *,
        connections: int = 4,
        rate: float | None = 200.0,
        reconnect_for: float = 1.0,
        operations: Sequence[Operation] = (),
        seed: int = 1,
    ) -> None:
        run = secrets.token_hex(4)
        self._workers = [Worker(uri, f"{run}-{n}", n, seed, operations) for n in range(1, connections + 1)]
        self._threads = [threading.Thread(target=self._work, args=(w,), daemon=True) for w in self._workers]
        self.pace(rate)
        self._reconnect_for = reconnect_for
        self._stopping = threading.Event()
        self._news = threading.Condition()
        self._active = 0
        self._cut_off_by = ""
        self._failures: list[Exception] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def commits(self) -> int:
        """Number of transactions acknowledged so far."""
        return sum(len(worker.tally.acknowledged) for worker in self._workers)

    @property
    def running(self) -> bool:
        """Whether some worker was neither stopped nor cut off."""
        return self._active > 0

    def pace(self, rate: float | None) -> None:
        """Change the rate, also while it writes."""
        self._pause = len(self._workers) / rate if rate else 0.0

    def start(self) -> None:
        self._active = len(self._threads)
        for thread in self._threads:
            thread.start()

    def wait_for_commits(self, more: int, timeout: float = 60.0) -> None:
        """Return when `more` further commits are acknowledged. Raises TimeoutError, also if the writer is
        cut off."""
        goal = self.commits + more
        with self._news:
            self._news.wait_for(lambda: self.commits >= goal or not self.running, timeout)
        if self.commits < goal:
            state = "still running" if self.running else f"cut off: {self._cut_off_by or self._failures}"
            raise TimeoutError(f"the writer has {self.commits} of {goal} commits, {state}")

    def wait_until_cut_off(self, timeout: float = 60.0) -> WriterReport:
        """Return when every worker was cut off. Raises as `stop`, or TimeoutError."""
        with self._news:
            if not self._news.wait_for(lambda: not self.running, timeout):
                raise TimeoutError(f"the writer still commits after {timeout} s")
        return self.stop()

    def stop(self) -> WriterReport:
        """Let the workers finish their transactions, and report. Raises an ExceptionGroup of
        errors that are no cut-off, if any. May be called again."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        if self._failures:
            raise ExceptionGroup("the writer failed", self._failures)
        tallies = [worker.tally for worker in self._workers]
        return WriterReport(
            acknowledged=tuple(m for tally in tallies for m in tally.acknowledged),
            rolled_back=tuple(m for tally in tallies for m in tally.rolled_back),
            conflicts=sum(tally.conflicts for tally in tallies),
            last_commit_at=max(tally.last_commit_at for tally in tallies),
            cut_off_by=self._cut_off_by,
        )

    def _work(self, worker: Worker) -> None:
        try:
            self._write_until_refused(worker)
        except Exception as exc:
            self._failures.append(exc)
        finally:
            with self._news:
                self._active -= 1
                self._news.notify_all()

    def _write_until_refused(self, worker: Worker) -> None:
        refused_since = 0.0
        commits = -1
        while not self._stopping.is_set():
            try:
                self._write(worker)
            except _CUT_OFF as exc:
                self._cut_off_by = str(exc).strip()
            if len(worker.tally.acknowledged) > commits:
                refused_since, commits = time.monotonic(), len(worker.tally.acknowledged)
            elif time.monotonic() - refused_since > self._reconnect_for:
                return
            self._stopping.wait(_RETRY_PAUSE_S)

    def _write(self, worker: Worker) -> None:
        """Transactions over one pair of connections until stopped. Raises psycopg.Error when cut off."""
        with worker.connected() as (own, partner):
            while not self._stopping.is_set():
                began = time.monotonic()
                worker.transact(own, partner)
                with self._news:
                    self._news.notify_all()
                self._stopping.wait(max(0.0, self._pause - (time.monotonic() - began)))


def check_conserved_sum(uri: str) -> list[str]:
    """Check that the sum of the balances is still that of the seed. Returns the difference, or nothing. The
    sum is right after every transaction, so also on a destination that is still catching up.
    """
    with psycopg.connect(uri) as connection:
        row = connection.execute(
            "SELECT (SELECT sum(balance) FROM shop.accounts),"
            " (SELECT value::numeric FROM shop.settings WHERE key = 'conserved_sum')"
        ).fetchone()
    if row is None or row[0] != row[1]:
        return [f"accounts hold {row and row[0]}, seeded with {row and row[1]}"]
    return []


def check_markers(uri: str, report: WriterReport) -> list[str]:
    """Check that every acknowledged transaction exists and no rolled back one. Returns the differences."""
    with psycopg.connect(uri) as connection:
        present = {row[0] for row in connection.execute("SELECT id FROM shop.markers")}
    lost = [m for m in report.acknowledged if m not in present]
    ghosts = [m for m in report.rolled_back if m in present]
    return _problem(lost, "acknowledged commits are missing") + _problem(
        ghosts, "rolled back ones are present"
    )


def _problem(markers: Collection[str], what: str) -> list[str]:
    return [f"{len(markers)} {what}: {', '.join(sorted(markers)[:5])}"] if markers else []
