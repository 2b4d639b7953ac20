"""A paced writer and a watcher of what it writes, each a process of its own: `pulse ROLE JSON`.

The writer always keeps to its schedule: a late transaction does not shift the due times of later ones. So a
stall shows in all transactions that were due during it (no coordinated omission). Both print
JSON: the writer [[id, due, committed], ...], the watcher [[highest id seen, when], ...], in
seconds of this host's clock.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from typing import Any

import psycopg

LOOK_EVERY_S = 0.0005
GIVE_UP_S = 30.0


def write(uri: str, first: int, rate: float, seconds: float) -> list[tuple[int, float, float]]:
    """One INSERT a transaction; `committed` is when COMMIT had returned."""
    done = []
    with psycopg.connect(uri, autocommit=True, prepare_threshold=0) as conn:
        conn.execute("SELECT 1")
        began = time.time() + 0.1
        for n in range(int(rate * seconds)):
            due = began + n / rate
            if (pause := due - time.time()) > 0:
                time.sleep(pause)
            conn.execute("INSERT INTO accounts VALUES (%s, 1, 0, '')", [first + n])
            done.append((first + n, due, time.time()))
    return done


def watch(uri: str, first: int, last: int) -> list[tuple[int, float]]:
    """Ask for the highest id until it is `last`; the moment of an id is that of the answer that
    first covers it, so what is measured is late by up to one look."""
    seen = []
    highest = first - 1
    with psycopg.connect(uri, autocommit=True, prepare_threshold=0) as conn:
        conn.execute("SELECT max(aid) FROM accounts")
        print("ready", flush=True)
        changed_at = time.time()
        while highest < last:
            began = time.time()
            row = conn.execute("SELECT max(aid) FROM accounts").fetchone()
            now = time.time()
            assert row is not None
            if row[0] > highest:
                highest, changed_at = row[0], now
                seen.append((highest, now))
            elif now - changed_at > GIVE_UP_S:
                raise TimeoutError(f"nothing new behind {highest} for {GIVE_UP_S} s")
            time.sleep(max(0.0, LOOK_EVERY_S - (now - began)))
    return seen


def main(role: str, given: dict[str, Any]) -> None:
    gc.disable()  # its pauses would be measured
    print(json.dumps(write(**given) if role == "write" else watch(**given)))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
