"""Fuzz target for the pgoutput parser: `python -m tests.fuzz.pgoutput_target [--seconds S] [--seed N]`.

Mutates the corpus (corpus/pgoutput, one message a file) and whatever mutants were still messages,
and holds every input to `check`. Ends non-zero at the first input that breaks it, printed as
hexadecimal. `check` alone is what a coverage-guided fuzzer would call.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from services.shared.pgoutput import (
    Delete,
    Insert,
    PgOutputError,
    PgOutputMessage,
    Truncate,
    Update,
    kind,
    parse,
    relation_oid_of,
    truncate_oids,
)
from tests.support.pgoutput.builder import build

CORPUS = Path(__file__).parent / "corpus" / "pgoutput"

# Bytes that mean something at some place: kinds, tuple tags, column formats, flags, lengths.
_MEANINGFUL = b"BCORYIUDTMSEcAbPKrpNKOtnubdfi\x00\x01\x02\x7f\x80\xff"
_KEPT = 2000


def corpus() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def check(data: bytes) -> bool:
    """Hold the parser to its contract on `data`; whether `data` is a message.

    Either PgOutputError, or a message that builds and parses back to itself, types of values
    included, and of which the peeks say the same. Anything else that is raised is a finding.
    """
    accepted = False
    for streaming in (False, True):
        try:
            message = parse(data, streaming=streaming)
        except PgOutputError as error:
            assert str(error)
            _peek_anyway(data, streaming)
            continue
        accepted = True
        again = parse(build(message), streaming=streaming)
        assert repr(again) == repr(message), "not the same after building and parsing it again"
        assert parse(memoryview(data), streaming=streaming) == message
        _peeks_agree(data, message, streaming)
    return accepted


def _peek_anyway(data: bytes, streaming: bool) -> None:
    for peek in (relation_oid_of, truncate_oids):
        try:
            peek(data, streaming=streaming)
        except PgOutputError as error:
            assert str(error)


def _peeks_agree(data: bytes, message: PgOutputMessage, streaming: bool) -> None:
    assert kind(data).name == _kind_name(message)
    changed = message.relation_oid if isinstance(message, Insert | Update | Delete) else None
    assert relation_oid_of(data, streaming=streaming) == changed
    emptied = message.relation_oids if isinstance(message, Truncate) else ()
    assert truncate_oids(data, streaming=streaming) == emptied


def _kind_name(message: PgOutputMessage) -> str:
    words = "".join(f"_{c}" if c.isupper() else c for c in type(message).__name__)
    return words.strip("_").upper()


def mutate(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to four small damages."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(damaged) + 1)
        choice = rng.randrange(6)
        if choice == 0:
            del damaged[at:]
        elif choice == 1:
            del damaged[at : at + rng.randint(1, 8)]
        elif choice == 2:
            damaged[at:at] = rng.randbytes(rng.randint(1, 8))
        elif choice == 3:
            damaged[at : at + 1] = bytes([rng.choice(_MEANINGFUL)])
        elif choice == 4:
            damaged[at : at + 4] = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1)).to_bytes(4, "big")
        else:
            start = rng.randrange(len(damaged) + 1)
            damaged[at:at] = damaged[start : start + rng.randint(1, 16)]
    return bytes(damaged)


def fuzz(seconds: float, seed: int) -> int:
    """Mutate and check until the time is up; the number of inputs tried."""
    rng = random.Random(seed)
    pool = corpus()
    deadline = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < deadline:
        data = mutate(rng.choice(pool), rng)
        try:
            if check(data):
                pool.append(data)
        except Exception:
            print(f"input {data.hex()} (seed {seed}) breaks the parser", file=sys.stderr)
            raise
        tried += 1
        if len(pool) > _KEPT:
            pool = corpus() + rng.sample(pool, _KEPT // 2)
    return tried


def main() -> None:
    options = argparse.ArgumentParser(description="fuzz the pgoutput parser")
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = options.parse_args()
    tried = fuzz(given.seconds, given.seed)
    print(f"{tried} inputs, seed {given.seed}: every one a message or a PgOutputError")


if __name__ == "__main__":
    main()
