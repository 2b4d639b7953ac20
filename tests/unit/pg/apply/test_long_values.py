"""Where a long value is cut."""

from __future__ import annotations

import pytest

from services.shared.pg.apply import long_values
from services.shared.pg.apply.long_values import LongValue, fragments


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_values, "FRAGMENT", 7)


def cut(data: bytes, *, bytea: bool = False) -> list[bytes]:
    found = []
    for fragment in fragments(LongValue(0, memoryview(data), bytea)):
        found.append(fragment)
        assert len(found) <= len(data)
    return found


@pytest.mark.parametrize("text", ["plain and long enough", "äöü€€€😀😀😀ß", "aaaaaa😀"])
def test_a_text_is_cut_between_characters(text: str) -> None:
    found = cut(text.encode())
    assert "".join(fragment.decode() for fragment in found) == text
    assert len(found) > 1


def test_a_bytea_is_cut_between_bytes() -> None:
    found = cut(b"\\x" + b"0123456789abcdef", bytea=True)
    assert b"".join(bytes.fromhex(fragment[2:].decode()) for fragment in found) == bytes.fromhex(
        "0123456789abcdef"
    )


@pytest.mark.parametrize("damaged", [b"\\x123456789", b"\\x123"])
def test_an_odd_number_of_digits_is_for_the_server_to_refuse(damaged: bytes) -> None:
    assert b"".join(fragment[2:] for fragment in cut(damaged, bytea=True)) == damaged[2:]


def test_what_is_no_text_comes_to_an_end() -> None:
    damaged = b"\x80" * 100
    assert b"".join(cut(damaged)) == damaged


def test_text_in_another_encoding_is_sent_as_bytes() -> None:
    text = "あ".encode("euc_jp") * 20
    found = list(fragments(LongValue(0, memoryview(text), bytea=False, encoding="EUC_JP")))
    assert len(found) > 1
    assert b"".join(bytes.fromhex(fragment[2:].decode()) for fragment in found) == text
