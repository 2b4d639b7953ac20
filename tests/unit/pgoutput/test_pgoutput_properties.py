"""What holds for every message and for every damage to it."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.shared.pgoutput import Insert, PgOutputError, PgOutputMessage, StreamAbort, parse
from tests.fuzz.pgoutput_target import check, corpus, fuzz, mutate
from tests.support.pgoutput.builder import build, is_streamed
from tests.support.pgoutput.strategies import inserts, messages

# A busy machine is no finding.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@patient
@given(messages)
@example(Insert(1, (b"x" * 70_000, None, b"y" * 65_536)))
@example(Insert(1, (None,) * 1664))
def test_a_built_message_parses_to_itself(message: PgOutputMessage) -> None:
    data = build(message)
    parsed = parse(data, streaming=is_streamed(message))
    assert type(parsed) is type(message)
    assert repr(parsed) == repr(message)  # as ==, but tells Binary from bytes
    assert parse(memoryview(data), streaming=is_streamed(message)) == message


@patient
@given(messages)
def test_every_truncation_of_a_message_is_an_error(message: PgOutputMessage) -> None:
    data = build(message)
    for end in range(len(data)):
        if isinstance(message, StreamAbort) and end == 9:
            continue  # the shorter form of the message
        with pytest.raises(PgOutputError):
            parse(data[:end], streaming=is_streamed(message))


@patient
@given(messages, st.binary(min_size=1, max_size=20))
def test_bytes_after_a_message_are_an_error(message: PgOutputMessage, more: bytes) -> None:
    if isinstance(message, StreamAbort) and message.abort_lsn is None and len(more) == 16:
        return  # becomes the longer form of the message
    with pytest.raises(PgOutputError):
        parse(build(message) + more, streaming=is_streamed(message))


@patient
@given(messages, st.integers(0, 2**32))
def test_a_mutated_message_is_a_message_or_the_typed_error(message: PgOutputMessage, seed: int) -> None:
    check(mutate(build(message), random.Random(seed)))


@patient
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_the_typed_error(data: bytes) -> None:
    check(data)


@given(inserts, st.data())
@settings(patient, max_examples=50)
def test_any_flipped_byte_gives_a_message_or_the_typed_error(message: Insert, data: st.DataObject) -> None:
    good = build(message)
    at = data.draw(st.integers(0, len(good) - 1))
    for byte in range(256):
        check(good[:at] + bytes([byte]) + good[at + 1 :])


def test_the_corpus_replays() -> None:
    assert all(check(data) for data in corpus())
    assert {data[:1] for data in corpus()} == {b"BCORYIUDTMSEcA"[i : i + 1] for i in range(14)}


def test_the_fuzz_target_runs() -> None:
    assert fuzz(0.2, seed=1) > 0
