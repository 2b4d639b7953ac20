"""What remains to be written once conflicts are decided: two sides end equal, and each policy does what it
says."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import pytest

from services.applier.compact import Step, Truncation, compact, row_by_row
from services.applier.conflicts.resolving import ConflictError, Resolving, expected_keys, timed
from services.applier.planner import Chunk
from services.shared.model import Direction, ErrorKind
from services.shared.model.conflicts.policy import ConflictKind, Decision, OnConflict
from services.shared.model.conflicts.resolution import Local
from services.shared.pgoutput import UNCHANGED, Delete, Insert, Transaction, Update, Values
from tests.unit.applier.test_compact import KEYED, ModelTarget

KEYS = 4
STEPS = 50
HISTORIES = 100
Row = tuple[bytes | None, ...]


class Target(ModelTarget):
    keyed = True

    def key_pairs(self, values: Values) -> tuple[tuple[str, str], ...]:
        return (("k", cast("bytes", values[0]).decode()),)


TARGET: Any = Target()


class Rows(dict[bytes, Row]):
    """Remembers which keys were written."""

    written: set[bytes]

    def __setitem__(self, key: bytes, row: Row) -> None:
        self.written.add(key)
        super().__setitem__(key, row)

    def __delitem__(self, key: bytes) -> None:
        self.written.add(key)
        super().__delitem__(key)

    def pop(self, key: bytes, *default: Any) -> Any:
        self.written.add(key)
        return super().pop(key, *default)


@dataclass
class Side:
    """written_at, deleted_at: by this side itself."""

    receives: Direction
    clock: int
    rows: Rows = field(default_factory=Rows)
    written_at: dict[bytes, int] = field(default_factory=dict)
    deleted_at: dict[bytes, int] = field(default_factory=dict)
    sent: deque[Chunk] = field(default_factory=deque)
    seen: int = 0
    conflicts: int = 0

    def __post_init__(self) -> None:
        self.rows.written = set()
        for n in range(0, KEYS, 2):
            self.rows[b"%d" % n] = (b"%d" % n, b"v", b"t")

    def write(self, random: Random, *, whole_rows: bool) -> None:
        self.clock += random.randint(1, 3)
        steps: list[Step] = []
        for _ in range(random.randint(1, 3)):
            change = self._change(random, whole_rows=whole_rows)
            if change is not None:
                steps.append((TARGET, change))
        lsn = self.clock
        ended = [Transaction(lsn, lsn + 1, self.clock, len(steps), 1)]
        self.sent.append(Chunk(lsn, steps, ended, seen=self.seen))

    def _change(self, random: Random, *, whole_rows: bool) -> Insert | Update | Delete | None:
        key, value = b"%d" % random.randrange(KEYS), b"%d" % random.randrange(10**6)
        before = self.rows.get(key)
        if before is None:
            self._store(key, (key, value, value))
            return Insert(1, (key, value, value))
        if random.random() < 0.3:
            self._remove(key)
            return Delete(1, "O", before)
        after = b"%d" % random.randrange(KEYS) if random.random() < 0.3 else key
        if after != key and after in self.rows:
            return None
        same = random.random() < 0.5 and not whole_rows
        self._remove(key)
        self._store(after, (after, value, before[2] if same else value))
        if after == key:
            self.deleted_at.pop(key)
        return Update(1, "O", before, (after, value, UNCHANGED if same else value))

    def _store(self, key: bytes, row: Row) -> None:
        self.rows[key] = row
        self.written_at[key] = self.clock

    def _remove(self, key: bytes) -> None:
        del self.rows[key]
        self.written_at.pop(key, None)
        self.deleted_at[key] = self.clock

    def receive(self, group: Sequence[Chunk]) -> None:
        steps = self.resolved(group, OnConflict.LAST_UPDATE_WINS)
        self.rows.written = set()
        for effect in cast("list[Any]", compact(steps)):
            effect(self.rows)
        for key in self.rows.written:
            self.written_at.pop(key, None)
        self.seen = group[-1].transactions[-1].commit_time

    def resolved(self, group: Sequence[Chunk], policy: OnConflict) -> list[Step]:
        unexpected: dict[Any, Local] = {}
        for key, expected in expected_keys(timed(group)).get(TARGET, {}).items():
            name = cast("bytes", key)
            exists = name in self.rows
            at = (self.written_at if exists else self.deleted_at).get(name)
            if exists != expected.exists or (at is not None and at > expected.seen_us):
                unexpected[TARGET, key] = Local(exists, at)
        resolving = Resolving(policy, self.receives, unexpected)
        steps = resolving.resolve(timed(group))
        self.conflicts += len(resolving.conflicts)
        return steps


def taken(random: Random, sent: deque[Chunk]) -> list[Chunk]:
    return [sent.popleft() for _ in range(min(len(sent), random.randint(1, 4)))]


@pytest.mark.parametrize("skew", [0, 5, -5, 1000])
def test_both_sides_end_equal(skew: int) -> None:
    conflicts = 0
    for seed in range(HISTORIES):
        random = Random(seed)
        source, destination = Side(Direction.REVERSE, 1000), Side(Direction.FORWARD, 1000 + skew)
        pairs = (source, destination), (destination, source)
        for _ in range(STEPS):
            here, there = random.choice(pairs)
            if random.random() < 0.6:
                here.write(random, whole_rows=False)
            elif here.sent:
                there.receive(taken(random, here.sent))
        for here, there in pairs:
            while here.sent:
                there.receive(taken(random, here.sent))
        assert dict(source.rows) == dict(destination.rows), f"seed {seed}"
        conflicts += source.conflicts + destination.conflicts
    assert conflicts > HISTORIES


OLD = (b"1", b"v", b"t")


def chunk(*changes: Insert | Update | Delete, at: int = 100, seen: int = 50) -> Chunk:
    steps: list[Step] = [(TARGET, change) for change in changes]
    return Chunk(at, steps, [Transaction(at, at + 1, at, len(steps), 1)], seen=seen)


def resolved(
    policy: OnConflict, local: dict[bytes, Local], *changes: Insert | Update | Delete
) -> tuple[list[Any], list[tuple[ConflictKind, Decision]]]:
    states: dict[Any, Local] = {(TARGET, key): one for key, one in local.items()}
    resolving = Resolving(policy, Direction.FORWARD, states)
    steps = resolving.resolve(timed([chunk(*changes)]))
    return [step[1] for step in steps], [(one.kind, one.decision) for one in resolving.conflicts]


UPDATE = Update(1, None, None, (b"1", b"new", b"t"))


def test_a_change_that_is_kept_out_writes_nothing() -> None:
    changed = {b"1": Local(True, 60)}
    for change, kind in (
        (Insert(1, OLD), ConflictKind.INSERT_EXISTS),
        (UPDATE, ConflictKind.UPDATE_ORIGIN_DIFFERS),
        (Delete(1, "K", OLD), ConflictKind.DELETE_ORIGIN_DIFFERS),
    ):
        assert resolved(OnConflict.KEEP_LOCAL, changed, change) == ([], [(kind, Decision.KEPT)])


def test_a_change_that_is_applied_replaces_the_row() -> None:
    changed, gone = {b"1": Local(True, 160)}, {b"1": Local(False, 160)}
    applied = Decision.APPLIED
    policy = OnConflict.APPLY_REMOTE
    steps, _ = resolved(policy, changed, Insert(1, OLD))
    assert steps == [Update(1, None, None, OLD)]
    assert isinstance(steps[0], Update)
    assert resolved(policy, changed, UPDATE)[0] == [UPDATE]
    steps, kinds = resolved(policy, gone, UPDATE)
    assert isinstance(steps[0], Insert)
    assert (steps, kinds) == ([Insert(1, UPDATE.new)], [(ConflictKind.UPDATE_DELETED, applied)])
    assert resolved(policy, gone, Insert(1, OLD))[0] == [Insert(1, OLD)]
    assert resolved(policy, gone, Delete(1, "K", OLD)) == ([], [(ConflictKind.DELETE_MISSING, applied)])


def test_a_key_is_one_conflict_until_the_other_side_has_written_it() -> None:
    local = {b"1": Local(True, 60)}
    steps, kinds = resolved(
        OnConflict.APPLY_REMOTE, local, UPDATE, UPDATE, Delete(1, "K", OLD), Insert(1, OLD)
    )
    assert len(steps) == 4
    assert len(kinds) == 1
    steps, kinds = resolved(OnConflict.KEEP_LOCAL, local, UPDATE, UPDATE)
    assert (steps, len(kinds)) == ([], 2)


def test_stop_raises_with_the_key() -> None:
    with pytest.raises(ConflictError) as caught:
        resolved(OnConflict.STOP, {b"1": Local(True, 60)}, UPDATE)
    assert caught.value.kind is ErrorKind.CONFLICT
    assert caught.value.lsn == caught.value.conflict.lsn
    assert caught.value.conflict.key == (("k", "1"),)
    assert caught.value.conflict.decision is Decision.STOPPED
    assert "new" not in str(caught.value)


def test_a_row_that_is_not_known_whole_is_not_made_up() -> None:
    change = Update(1, None, None, (b"1", b"new", UNCHANGED))
    whole = Update(1, "O", OLD, (b"1", b"new", UNCHANGED))
    changed, gone = {b"1": Local(True, 60)}, {b"1": Local(False, 60)}
    for policy, local in (
        (OnConflict.LAST_UPDATE_WINS, changed),
        (OnConflict.LAST_UPDATE_WINS, gone),
        (OnConflict.APPLY_REMOTE, gone),
    ):
        with pytest.raises(ConflictError, match="all values"):
            resolved(policy, local, change)
        (step,), _ = resolved(policy, local, whole)
        assert step.new == (b"1", b"new", b"t")
    assert resolved(OnConflict.APPLY_REMOTE, changed, change)[0] == [change]


def test_a_change_of_a_key_is_decided_for_both_keys() -> None:
    move = Update(1, "K", (b"1", None, None), (b"2", b"new", UNCHANGED))
    policy = OnConflict.LAST_UPDATE_WINS
    earlier, later = 60, 160

    def kinds(steps: Iterable[object]) -> list[str]:
        return [type(step).__name__ for step in steps]

    # The other row goes, and the row that moves keeps the value that was not sent.
    assert kinds(resolved(policy, {b"2": Local(True, earlier)}, move)[0]) == ["Delete", "Update"]
    # The other row stays: then the row goes without arriving.
    assert kinds(resolved(policy, {b"2": Local(True, later)}, move)[0]) == ["Delete"]
    # The old row was changed later and stays, but the new one cannot be made.
    with pytest.raises(ConflictError):
        resolved(policy, {b"1": Local(True, later)}, move)
    whole = move._replace(new=(b"2", b"new", b"t"))
    assert kinds(resolved(policy, {b"1": Local(True, later)}, whole)[0]) == ["Insert"]
    assert kinds(resolved(policy, {b"1": Local(False, earlier)}, whole)[0]) == ["Insert"]


def test_after_a_truncate_nothing_is_unexpected() -> None:
    steps: list[Step] = [Truncation((KEYED,), False), (TARGET, Insert(1, OLD))]
    group = [Chunk(100, steps, [Transaction(100, 101, 100, 2, 1)], seen=50)]
    assert expected_keys(timed(group)) == {}
    resolving = Resolving(OnConflict.STOP, Direction.FORWARD, {(TARGET, b"1"): Local(True, 60)})
    assert resolving.resolve(timed(group)) == steps
    assert len(row_by_row(steps)) == 2
