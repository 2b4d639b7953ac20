"""Two sides that replicate to each other, as a model: with last-update-wins they end equal.

Each side applies its own writes at once and the other's later, in order. Histories are drawn from a seed. The
clocks of the two sides may differ by any amount, but neither runs backwards.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import pytest

from services.shared.model import Direction
from services.shared.model.conflicts.policy import Decision, OnConflict
from services.shared.model.conflicts.resolution import Local, Remote, Write, conflict_of, decide

KEYS = 3
STEPS = 60
HISTORIES = 250


class Change(NamedTuple):
    write: Write
    key: int
    value: int


class Transaction(NamedTuple):
    remote: Remote
    changes: list[Change]


@dataclass
class Side:
    """local: when this side has last written or deleted a key. sent: not yet arrived at the other side."""

    receives: Direction
    clock: int
    rows: dict[int, int] = field(default_factory=dict)
    local: dict[int, int] = field(default_factory=dict)
    sent: deque[Transaction] = field(default_factory=deque)
    seen: int = 0
    conflicts: int = 0
    knows_deletions: bool = True

    def write(self, random: Random) -> None:
        self.clock += random.randint(1, 3)
        changes = [self._change(random, key) for key in random.sample(range(KEYS), random.randint(1, 2))]
        self.sent.append(Transaction(Remote(self.clock, self.seen), changes))

    def _change(self, random: Random, key: int) -> Change:
        value = random.randrange(1000)
        if key not in self.rows:
            write = Write.INSERT
        else:
            write = random.choice((Write.UPDATE, Write.UPDATE, Write.DELETE))
        self._store(write, key, value)
        if write is Write.DELETE and not self.knows_deletions:
            self.local.pop(key, None)
        else:
            self.local[key] = self.clock
        return Change(write, key, value)

    def _store(self, write: Write, key: int, value: int) -> None:
        if write is Write.DELETE:
            self.rows.pop(key, None)
        else:
            self.rows[key] = value

    def receive(self, transaction: Transaction) -> bool:
        """False: the pipeline stops."""
        for write, key, value in transaction.changes:
            here = Local(key in self.rows, self.local.get(key))
            kind = conflict_of(write, here, transaction.remote)
            if kind is not None:
                self.conflicts += 1
                policy = OnConflict.LAST_UPDATE_WINS
                decision = decide(policy, kind, here, transaction.remote, self.receives)
                if decision is Decision.STOPPED:
                    return False
                if decision is Decision.KEPT:
                    continue
            self._store(write, key, value)
            self.local.pop(key, None)
        self.seen = transaction.remote.committed_at
        return True


def play(random: Random, skew: int, *, knows_deletions: bool = True) -> tuple[Side, Side, bool]:
    """Both sides after everything has arrived, and whether it did."""
    source = Side(Direction.REVERSE, 1000, knows_deletions=knows_deletions)
    destination = Side(Direction.FORWARD, 1000 + skew, knows_deletions=knows_deletions)
    for side in (source, destination):
        side.rows = dict.fromkeys(range(0, KEYS, 2), 0)
    pairs = (source, destination), (destination, source)
    for step in range(2 * STEPS):
        here, there = random.choice(pairs)
        if step < STEPS and random.random() < 0.5:
            here.write(random)
        elif here.sent and not there.receive(here.sent.popleft()):
            return source, destination, False
    for here, there in pairs:
        while here.sent:
            if not there.receive(here.sent.popleft()):
                return source, destination, False
    return source, destination, True


@pytest.mark.parametrize("skew", [0, 1, 7, -7, 100, -100, 10_000])
def test_last_update_wins_ends_with_equal_rows_on_both_sides(skew: int) -> None:
    conflicts = 0
    for seed in range(HISTORIES):
        source, destination, arrived = play(Random(seed), skew)
        assert arrived, f"seed {seed}: a conflict could not be decided"
        assert source.rows == destination.rows, f"seed {seed}"
        conflicts += source.conflicts + destination.conflicts
    assert conflicts > HISTORIES


def test_without_the_times_of_deletions_it_stops_rather_than_decides_wrongly() -> None:
    """What then arrives at a missing row cannot be decided. An insert could not be recognized as older than
    the deletion, so an applier must not begin without the record of deletions."""
    stopped = sum(not play(Random(seed), 0, knows_deletions=False)[2] for seed in range(100))
    assert stopped > 0
