"""The framing of what a server sends while it copies: any cut of the stream gives the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared.pg.copy.errors import FramingError, ServerError
from services.shared.pg.copy.frames import KEPT, Frames, Message


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def taken_apart(stream: bytes, cuts: list[int]) -> tuple[bytes, int, list[tuple[str, bytes]]]:
    """The CopyData messages as they come out, how many went in, and the other messages; read in
    pieces that end at `cuts`."""
    frames, data, others, buffer = Frames(), b"", [], bytearray()
    for low, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        buffer = buffer + stream[low:end]
        while buffer:
            window = memoryview(buffer)
            taken, length = frames.data(window)
            if taken:
                data += buffer[:length]
                buffer = buffer[taken:]
                continue
            length, other = frames.message(window)
            buffer = buffer[length:]
            if other is not None:
                others.append((other.kind, bytes(other.body)))
            elif not length:
                break
    assert buffer == b""
    return data, frames.frames, others


bodies = st.binary(max_size=40)
kinds = st.sampled_from([b"d", b"d", b"d", b"N", b"S", b"E", b"c", b"C", b"Z"])


@given(st.lists(st.tuples(kinds, bodies)), st.data())
def test_the_stream_is_the_same_however_it_is_cut(
    messages: list[tuple[bytes, bytes]], draw: st.DataObject
) -> None:
    stream = b"".join(message(kind, body) for kind, body in messages)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    copied = [body for kind, body in messages if kind == b"d"]
    data, frames, found = taken_apart(stream, cuts)
    assert found == [(kind.decode(), body) for kind, body in messages if kind != b"d"]
    assert frames == len(copied)
    assert b"".join(bodies_of(data)) == b"".join(copied)


def bodies_of(stream: bytes) -> list[bytes]:
    """Of CopyData messages, which there are nothing but."""
    found, at = [], 0
    while at < len(stream):
        assert stream[at : at + 1] == b"d"
        end = at + 1 + int.from_bytes(stream[at + 1 : at + 5], "big")
        assert end <= len(stream)
        found.append(stream[at + 5 : end])
        at = end
    return found


def test_whole_messages_become_one_and_what_is_cut_keeps_its_header() -> None:
    stream = bytearray(
        message(b"d", b"one") + message(b"d", b"") + message(b"d", b"two") + message(b"d", b"three")
    )
    frames, window = Frames(), memoryview(stream)
    taken, left = frames.data(window[:-3])
    assert (taken, frames.frames, frames.size) == (len(stream) - 3, 4, 8)
    assert bytes(window[:left]) == message(b"d", b"onetwo") + message(b"d", b"three")[:-3]
    assert frames.data(window[taken:]) == (3, 3)
    assert (frames.frames, frames.size) == (4, 11)


@pytest.mark.parametrize("damaged", [b"\0\0\0\0\0", b"d\0\0\0\3", b"x\0\0\0\4", b"E\0\0\0\0"])
def test_what_is_no_message_is_refused(damaged: bytes) -> None:
    frames = Frames()
    with pytest.raises(FramingError):
        assert frames.data(memoryview(bytearray(damaged))) == (0, 0)
        frames.message(memoryview(damaged))


def test_a_huge_error_is_kept_up_to_its_first_quotation() -> None:
    value = b"x" * (3 * KEPT)
    body = b'SERROR\0C22P02\0Minvalid input syntax for type integer: "' + value + b'"\0Wcontext\0\0'
    _, _, ((kind, kept),) = taken_apart(message(b"E", body), [7, 1000, 2 * KEPT])
    fields = Message(kind, bytearray(kept)).fields()
    assert len(kept) == KEPT
    assert fields == {"S": "ERROR", "C": "22P02", "M": 'invalid input syntax for type integer: "..."'}
    assert ServerError(fields["C"], fields["M"], "source").sqlstate == "22P02"


def test_the_row_count_of_a_copy() -> None:
    assert Message("C", bytearray(b"COPY 5000000000\0")).rows == 5_000_000_000
    assert Message("C", bytearray(b"BEGIN\0")).rows == 0
