"""A client that commits one row after another, first on the source, and on the destination once that refuses:
a process of its own, `crossing JSON`.

It does what an application does that knows both addresses: after an error it connects again, to the other
side. It prints JSON: [[id, side, acknowledged], ...] in seconds of this host's clock. side: 0 for the source.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Sequence

import psycopg

PAUSE_S = 0.001
AGAIN_S = 0.002
AFTERWARDS = 50
"""Commits on the destination, after which it ends."""


def cross(uris: Sequence[str], first: int, give_up_s: float) -> list[tuple[int, int, float]]:
    """Write ids from `first` on. A commit whose answer is lost may be there or not; its id is not used
    again. Raises TimeoutError if no side takes a row for `give_up_s`."""
    acknowledged: list[tuple[int, int, float]] = []
    number, side, last = first, 0, time.monotonic()
    while True:
        try:
            with psycopg.connect(uris[side], autocommit=True, prepare_threshold=0, connect_timeout=2) as conn:
                while sum(1 for _, where, _ in acknowledged[-AFTERWARDS:] if where) < AFTERWARDS:
                    number += 1
                    conn.execute("INSERT INTO crossing VALUES (%s)", [number])
                    acknowledged.append((number, side, time.time()))
                    last = time.monotonic()
                    time.sleep(PAUSE_S)
                return acknowledged
        except psycopg.Error:
            if time.monotonic() - last > give_up_s:
                raise TimeoutError(f"nobody takes row {number}") from None
            side = 1 - side
            time.sleep(AGAIN_S)


if __name__ == "__main__":
    gc.disable()  # its pauses would be measured
    print(json.dumps(cross(**json.loads(sys.argv[1]))))
