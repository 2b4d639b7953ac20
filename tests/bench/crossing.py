"""A client that commits one row after another, first on the source, then on the destination: a process of its
own, `crossing MODE JSON`.

direct   it does what an application does that knows both addresses: after an error it connects again, to the
         other side
pooled   it knows the pooler only, which leads it to the other side. It ends at the first error

It prints JSON, a Log. side: 0 for the source. acknowledged: in seconds of this host's clock.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import psycopg

PAUSE_S = 0.001
AGAIN_S = 0.002
AFTERWARDS = 50
"""Commits on the destination, after which it ends."""
_INSERT = "INSERT INTO crossing VALUES (%s) RETURNING pg_catalog.inet_server_port()"


@dataclass(slots=True)
class Log:
    """acknowledged: (id, side, acknowledged). errors: those that an application would see."""

    acknowledged: list[tuple[int, int, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def crossed(self) -> bool:
        """Whether enough rows are on the destination."""
        return sum(1 for _, side, _ in self.acknowledged[-AFTERWARDS:] if side) >= AFTERWARDS


def direct(uris: Sequence[str], first: int, give_up_s: float) -> Log:
    """Write ids from `first` on. A commit whose answer is lost may be there or not; its id is not used
    again. Raises TimeoutError if no side takes a row for `give_up_s`."""
    log = Log()
    number, side, last = first, 0, time.monotonic()
    while True:
        try:
            with psycopg.connect(uris[side], autocommit=True, prepare_threshold=0, connect_timeout=2) as conn:
                while not log.crossed:
                    number += 1
                    conn.execute("INSERT INTO crossing VALUES (%s)", [number])
                    log.acknowledged.append((number, side, time.time()))
                    last = time.monotonic()
                    time.sleep(PAUSE_S)
                return log
        except psycopg.Error:
            if time.monotonic() - last > give_up_s:
                raise TimeoutError(f"nobody takes row {number}") from None
            side = 1 - side
            time.sleep(AGAIN_S)


def pooled(uri: str, first: int, source_port: int) -> Log:
    """Write ids from `first` on. source_port: of the server that is the source; each commit tells the port of
    the server that has it."""
    log, number = Log(), first
    try:
        with psycopg.connect(uri, autocommit=True, prepare_threshold=None) as conn:
            while not log.crossed:
                number += 1
                row = conn.execute(_INSERT, [number]).fetchone()
                assert row is not None
                log.acknowledged.append((number, int(row[0] != source_port), time.time()))
                time.sleep(PAUSE_S)
    except psycopg.Error as exc:
        log.errors.append(f"after row {number - 1}: {exc}")
    return log


if __name__ == "__main__":
    gc.disable()  # its pauses would be measured
    mode: Callable[..., Log] = {"direct": direct, "pooled": pooled}[sys.argv[1]]
    print(json.dumps(asdict(mode(**json.loads(sys.argv[2])))))
