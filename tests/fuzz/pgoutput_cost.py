"""What parsing costs: `python -m tests.fuzz.pgoutput_cost` prints µs for each shape of message.

Each figure is the best of many short runs, which a busy machine disturbs least; `per column` is
the slope between 2 and 16 columns. The shapes of pgbench stand for small rows.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

from services.shared.pgoutput import (
    UNCHANGED,
    Begin,
    Binary,
    Commit,
    Delete,
    Insert,
    PgOutputMessage,
    Update,
    Values,
    kind,
    parse,
    relation_oid_of,
)
from tests.support.pgoutput.builder import build

_RUNS = 40
_CALLS = 5000

_ACCOUNT: Values = (b"4711815", b"48", b"-3517", b" " * 84)
_HISTORY: Values = (b"17", b"3", b"4711815", b"-3517", b"2024-02-29 12:34:56.789012", None)
_SHAPES: dict[str, PgOutputMessage] = {
    "insert, pgbench_history (6 columns)": Insert(16384, _HISTORY),
    "update, pgbench_accounts (4 columns)": Update(16384, None, None, _ACCOUNT),
    "update with key, 4 columns": Update(16384, "K", (b"4711815", None, None, None), _ACCOUNT),
    "update with unchanged TOAST, 4 columns": Update(16384, None, None, (b"1", UNCHANGED, b"2", None)),
    "delete by key, 4 columns": Delete(16384, "K", (b"4711815", None, None, None)),
    "insert, 4 binary columns": Insert(16384, tuple(map(Binary, (b"1234", b"1234", b"1234", b" " * 84)))),
    "insert, 2 columns": Insert(16384, (b"12345",) * 2),
    "insert, 16 columns": Insert(16384, (b"12345",) * 16),
    "begin": Begin(1, 0, 1),
    "commit": Commit(0, 1, 2, 0),
}


def cost(call: Callable[[bytes], object], data: bytes) -> float:
    """Best µs for one call."""
    timer = timeit.Timer("call(data)", globals={"call": call, "data": data})
    return min(timer.repeat(_RUNS, _CALLS)) / _CALLS * 1e6


def main() -> None:
    costs = {name: cost(parse, build(message)) for name, message in _SHAPES.items()}
    update = build(_SHAPES["update, pgbench_accounts (4 columns)"])
    costs["per column"] = (costs["insert, 16 columns"] - costs["insert, 2 columns"]) / 14
    costs["kind of an update, not parsed"] = cost(kind, update)
    costs["relation of an update, not parsed"] = cost(relation_oid_of, update)
    for name, us in costs.items():
        print(f"{us:7.2f} µs  {name}")


if __name__ == "__main__":
    main()
