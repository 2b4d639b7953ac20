"""Where a long value is cut."""

from __future__ import annotations

import pytest

from services.shared.pg.apply import long_values
from services.shared.pg.apply.long_values import LongValue, pieces


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_values, "PIECE", 7)


def cut(data: bytes, *, bytea: bool = False) -> list[bytes]:
    found = []
    for piece in pieces(LongValue(0, memoryview(data), bytea)):
        found.append(piece)
        assert len(found) <= len(data)
    return found


@pytest.mark.parametrize("text", ["plain and long enough", "äöü€€€😀😀😀ß", "aaaaaa😀"])
def test_a_text_is_cut_between_characters(text: str) -> None:
    found = cut(text.encode())
    assert "".join(piece.decode() for piece in found) == text
    assert len(found) > 1


def test_a_bytea_is_cut_between_bytes() -> None:
    found = cut(b"\\x" + b"0123456789abcdef", bytea=True)
    assert b"".join(bytes.fromhex(piece[2:].decode()) for piece in found) == bytes.fromhex("0123456789abcdef")


@pytest.mark.parametrize("damaged", [b"\\x123456789", b"\\x123"])
def test_an_odd_number_of_digits_is_for_the_server_to_refuse(damaged: bytes) -> None:
    assert b"".join(piece[2:] for piece in cut(damaged, bytea=True)) == damaged[2:]


def test_what_is_no_text_comes_to_an_end() -> None:
    damaged = b"\x80" * 100
    assert b"".join(cut(damaged)) == damaged


def test_text_in_another_encoding_is_sent_as_bytes() -> None:
    text = "あ".encode("euc_jp") * 20
    found = list(pieces(LongValue(0, memoryview(text), bytea=False, encoding="EUC_JP")))
    assert len(found) > 1
    assert b"".join(bytes.fromhex(piece[2:].decode()) for piece in found) == text
