"""Compiled twins against the Python they stand for: the same results, the same refusals."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.applier import pending
from services.decoder import message_runs
from services.shared.model import ReplicaIdentity
from services.shared.model.compiled import twin_of
from services.shared.pg.apply import arrays
from services.shared.pg.copy import row_merge
from services.shared.pg.copy.errors import FramingError
from services.shared.pg.replication import wal_frames
from services.shared.pgoutput import (
    UNCHANGED,
    Begin,
    Commit,
    Delete,
    Insert,
    PgOutputError,
    Relation,
    RelationColumn,
    Update,
    rows,
)
from services.shared.pgoutput.messages import Values
from services.shared.wire import frames
from tests.support.pgoutput.builder import build
from tests.support.pgoutput.strategies import inserts, messages

RELATION = build(Relation(7, "s", "t", ReplicaIdentity.DEFAULT, (RelationColumn("c", 25, -1, True),)))
MODULES = (rows, frames, message_runs, pending, arrays, wal_frames, row_merge)


def compiled(module: ModuleType) -> Any:
    twin = twin_of(module)
    if twin is module:
        pytest.skip("no C compiler was here when the twins were to be built, or they are turned off")
    return twin


def outcome(call: Callable[..., object], *args: object) -> object:
    """The result with all its types, or the kind of refusal."""
    try:
        return repr(typed(call(*args)))
    except (PgOutputError, IndexError, struct.error):  # what `parse` makes one of
        return "refused"


def typed(value: object) -> object:
    if isinstance(value, memoryview):
        return ("view", bytes(value))
    if isinstance(value, (tuple, list)):
        return (type(value).__name__, [typed(one) for one in value])
    return (type(value).__name__, value)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_all_twins_are_built_together(module: ModuleType) -> None:
    """A stale or missing one would go unnoticed, since the Python does its work."""
    compiled(rows)
    assert twin_of(module) is not module


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(build(draw(messages)))
    match draw(st.sampled_from(["whole", "cut", "longer", "changed"])):
        case "cut":
            return bytes(data[: draw(st.integers(1, len(data)))])
        case "longer":
            return bytes(data) + draw(st.binary(min_size=1, max_size=5))
        case "changed":
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@given(history=st.lists(damaged(), max_size=6), start=st.integers(0, 2))
def test_rows_are_read_alike(history: list[bytes], start: int) -> None:
    twin = compiled(rows)
    start = min(start, len(history))
    assert outcome(twin.read_changes, history, start) == outcome(rows.read_changes, history, start)
    views = [memoryview(message) for message in history]
    assert outcome(twin.read_changes, views, start) == outcome(rows.read_changes, views, start)


_plain = st.sampled_from(
    [build(Begin(final, 7, 5)) for final in (90, 110, 130)]
    + [build(Commit(0, 1, end, 7)) for end in (100, 120)]
    + [
        build(Insert(7, (b"a", None))),
        build(Update(7, "K", (b"a",), (UNCHANGED,))),
        build(Delete(7, "O", (b"b",))),
    ]
    + [
        RELATION,
        RELATION.replace(b"c", b"d"),
        b"",
        build(Begin(140, 7, 5))[:-1],
        build(Commit(0, 1, 150, 7))[:-1],
    ]
)


@given(history=st.lists(_plain | damaged(), max_size=14), start=st.integers(0, 2), floor=st.integers(80, 140))
def test_whole_transactions_are_read_alike(history: list[bytes], start: int, floor: int) -> None:
    twin, known = compiled(rows), {RELATION[1:5]: RELATION}
    for found in (history, [memoryview(message) for message in history]):
        assert outcome(twin.read_transactions, found, start, known, floor) == outcome(
            rows.read_transactions, found, start, known, floor
        )


@given(message=damaged())
def test_begin_and_commit_are_read_alike(message: bytes) -> None:
    twin = compiled(rows)
    for name in ("read_begin", "read_commit"):
        assert outcome(getattr(twin, name), message, 1, 0) == outcome(getattr(rows, name), message, 1, 0)


def test_a_long_value_of_a_large_row_is_a_view() -> None:
    message = memoryview(build(Insert(7, (b"k", b"x" * (rows.SHORT + 1)))))
    for module in (rows, compiled(rows)):
        ((change,), _) = module.read_changes([message], 0)
        assert type(change) is not Insert
        assert isinstance(change, Insert)
        assert change.new[0] == b"k"
        assert isinstance(change.new[1], memoryview)


@given(parts=st.lists(st.binary(max_size=40), max_size=6), cut=st.integers(0, 60), at=st.integers(0, 3))
def test_payloads_are_cut_alike(parts: list[bytes], cut: int, at: int) -> None:
    whole = b"?" * at + b"".join(struct.pack(">I", len(part)) + part for part in parts)
    payload = whole[: max(at, len(whole) - cut)]
    assert compiled(frames).split(payload, at) == frames.split(payload, at)


@given(
    found=st.lists(inserts.map(build) | messages.map(build) | _plain | st.just(None), max_size=12),
    room=st.integers(1, 400),
    floor=st.integers(80, 140),
    every=st.booleans(),
    inside=st.booleans(),
)
def test_runs_are_collected_alike(
    found: list[bytes | None], room: int, floor: int, every: bool, inside: bool
) -> None:
    known = {m[1:5] for n, m in enumerate(found) if m and (every or n % 3)}
    results = []
    for module in (message_runs, compiled(message_runs)):
        chunks: list[bytes] = []
        results.append((module.collect(found, 0, known, chunks, room, floor=floor, inside=inside), chunks))
    assert results[0] == results[1]


@given(
    sent=st.lists(st.tuples(st.sampled_from(b"dxE"), st.sampled_from(b"wk"), st.integers(0, 80)), max_size=8),
    cut=st.integers(0, 100),
)
def test_wal_data_is_taken_alike(sent: list[tuple[int, int, int]], cut: int) -> None:
    stream = bytearray()
    for kind, inner, size in sent:
        body = bytes([inner]) + b"h" * 24 + bytes(range(size))
        stream += struct.pack(">BI", kind, len(body) + 4) + body
    stop = max(0, len(stream) - cut)
    assert compiled(wal_frames).split(stream, 0, stop) == wal_frames.split(stream, 0, stop)


@given(
    sent=st.lists(st.tuples(st.sampled_from(b"dddC"), st.binary(max_size=30), st.booleans()), max_size=8),
    rest=st.integers(0, 20),
    cut=st.integers(0, 40),
)
def test_copy_data_is_joined_alike(sent: list[tuple[int, bytes, bool]], rest: int, cut: int) -> None:
    stream = bytearray(b"." * rest)
    for kind, body, right in sent:
        stream += struct.pack(">BI", kind, len(body) + 4 if right else 3) + body
    window = stream[: max(0, len(stream) - cut)]
    results: list[object] = []
    for module in (row_merge, compiled(row_merge)):
        mine = bytearray(window)
        try:
            found = module.join(memoryview(mine), rest)
            results.append((found, mine[: found[1]]))
        except FramingError:
            results.append(("refused", None))
    assert results[0] == results[1]


@given(columns=st.lists(st.tuples(st.none() | st.binary(max_size=20), st.binary(max_size=5)), max_size=6))
def test_arrays_are_written_alike(columns: list[tuple[bytes | None, bytes]]) -> None:
    twin = compiled(arrays)
    for i in (0, 1):
        assert twin.column(columns, i) == arrays.column(columns, i)
    assert twin.array([row[0] for row in columns]) == arrays.array([row[0] for row in columns])


_keys = st.sampled_from([b"a", b"b", b"c"])
_cells: st.SearchStrategy[Any] = st.sampled_from([b"1", b"2", None, UNCHANGED])
_changes = st.one_of(
    st.builds(lambda k, v: Insert(1, (k, v, k)), _keys, _cells),
    st.builds(lambda k, o, v: Update(1, "K", (o, None, None), (k, v, k)), _keys, _keys, _cells),
    st.builds(lambda k, v: Update(1, None, None, (k, v, UNCHANGED)), _keys, _cells),
    st.builds(lambda k: Delete(1, "K", (k, None, None)), _keys),
)


@given(
    changes=st.lists(_changes | st.just(None), max_size=12),
    where=st.sampled_from([(), (0,), (0, 2)]),
    alone=st.booleans(),
)
def test_net_effects_are_found_alike(changes: list[Any], where: tuple[int, ...], alone: bool) -> None:
    steps = [("t", change) if change is not None else [None] for change in changes]
    results = []
    for module in (pending, compiled(pending)):
        table = module.Pending(where, alone=alone)
        trace: list[object] = []
        at = 0
        while (at := module.merge(steps, at, {"t": table})) < len(steps):
            trace.append((at, table.take()))
            at += 1
        results.append((trace, table.take(), table.take()))
    assert results[0] == results[1]


def test_a_row_of_too_few_columns_is_an_error_and_not_a_crash() -> None:
    short: Values = (b"k",)
    for module in (pending, compiled(pending)):
        with pytest.raises(IndexError):
            module.Pending((1,)).add(Insert(1, short))
    for arrays_module in (arrays, compiled(arrays)):
        with pytest.raises(IndexError):
            arrays_module.column([short], 1)
