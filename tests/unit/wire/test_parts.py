"""Copy parts on the bus: there and back, and bytes that are no part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pgmig.bus.v1 import bus_pb2
from pgmig.common.v1.common_pb2 import TableName

from services.shared.model import CopyPart, CtidRange, ErrorKind, KeyRange, Lsn, PgmigError, TableId
from services.shared.wire.parts import decode_part, encode_part

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=63)
LIMITS = st.none() | st.integers(-(2**63), 2**63 - 1)
RANGES = st.builds(CtidRange, st.integers(0, 2**32), st.none() | st.integers(0, 2**32)) | st.builds(
    KeyRange, NAMES, LIMITS, LIMITS
)
PARTS = st.builds(
    CopyPart,
    part_id=NAMES,
    table=st.builds(TableId, NAMES, NAMES),
    columns=st.lists(NAMES, max_size=5).map(tuple),
    snapshot_name=NAMES,
    snapshot_lsn=st.integers(0, 2**64 - 1).map(Lsn),
    binary=st.booleans(),
    snapshot_xids=st.text("0123456789:,"),
    epoch=st.text(max_size=5),
    rows=st.none() | RANGES,
)


@given(PARTS)
def test_a_part_survives_encoding_and_decoding(part: CopyPart) -> None:
    assert decode_part(encode_part(part)) == part


@given(st.binary(max_size=200))
def test_any_bytes_give_a_part_or_corrupt(data: bytes) -> None:
    try:
        part = decode_part(data)
    except PgmigError as exc:
        assert exc.kind is ErrorKind.CORRUPT
    else:
        assert decode_part(encode_part(part)) == part


@given(PARTS, st.data())
def test_a_truncated_part_is_corrupt_or_lacks_only_its_tail(part: CopyPart, data: st.DataObject) -> None:
    whole = encode_part(part)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        assert decode_part(cut).part_id == part.part_id
    except PgmigError as exc:
        assert exc.kind is ErrorKind.CORRUPT


@pytest.mark.parametrize("missing", ["part_id", "schema", "name", "snapshot_name"])
def test_a_part_without_what_names_it_is_corrupt(missing: str) -> None:
    message = bus_pb2.CopyPart(
        part_id="p", table=TableName(schema="s", name="n"), columns=["a"], snapshot_name="1-1-1"
    )
    of = message.table if missing in TableName.DESCRIPTOR.fields_by_name else message
    of.ClearField(missing)  # type: ignore[arg-type]
    with pytest.raises(PgmigError) as caught:
        decode_part(message.SerializeToString())
    assert caught.value.kind is ErrorKind.CORRUPT


def test_a_column_without_a_name_is_corrupt() -> None:
    message = bus_pb2.CopyPart(
        part_id="p", table=TableName(schema="s", name="n"), columns=["a", ""], snapshot_name="1-1-1"
    )
    with pytest.raises(PgmigError):
        decode_part(message.SerializeToString())
