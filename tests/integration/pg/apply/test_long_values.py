"""Values that reach the destination in pieces: every byte arrives, whatever becomes of the row."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.shared.model import ErrorKind
from services.shared.pg.apply import long_values
from services.shared.wire import joining
from tests.support.pipeline.in_process import Pipeline, pipeline, rows, run
from tests.support.servers.nats import NatsServer

pytestmark = [pytest.mark.timeout(120), pytest.mark.xdist_group("heavy")]

TYPES = """
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN image AS bytea CHECK (length(VALUE) > 0);
"""
COLUMNS = """
    n int, t text, v varchar(2000000), b bytea, j jsonb, a text[], i int[], p pair, d image,
    r numeric
"""
DDL = f"""
{TYPES}
CREATE TABLE keyed (id int PRIMARY KEY, {COLUMNS});
CREATE TABLE bare ({COLUMNS}); ALTER TABLE bare REPLICA IDENTITY FULL;
CREATE TABLE counted (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t text, b bytea);
ALTER TABLE keyed ALTER t SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
"""
LONG, FRAGMENT = 70_000, 65_537
"""Bytes; pieces of an odd number, so that they would end within characters and within bytes."""

_HEX = "decode(repeat(md5('{seed}'), 20000), 'hex')"
_TEXT = "repeat('a☃𝄞é\\\"{seed}', 30000)"


def values(seed: str) -> str:
    """An expression for each of COLUMNS, all but the number long."""
    text, hexed = _TEXT.format(seed=seed), _HEX.format(seed=seed)
    return ", ".join(
        (
            "1",
            text,
            f"{text}::varchar",
            hexed,
            f"jsonb_build_object('k', {text})",
            f"ARRAY[{text}, NULL, 'b']",
            "(SELECT array_agg(g) FROM generate_series(1, 60000) g)",
            f"ROW(1, {text})::pair",
            hexed,
            f"repeat('123456789{len(seed)}', 9000)::numeric",
        )
    )


@pytest.fixture
async def streaming(
    source_db: str, dest_db: str, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Pipeline]:
    monkeypatch.setattr(long_values, "LONG", LONG)
    monkeypatch.setattr(long_values, "FRAGMENT", FRAGMENT)
    monkeypatch.setattr(joining, "SPOOLED", joining.LARGE)
    async with pipeline(source_db, dest_db, nats_server, DDL, "keyed", "bare", "counted") as found:
        await found.start_decoder()
        found.start_applier()
        yield found


def assert_equal(p: Pipeline, table: str) -> None:
    query = f"SELECT md5(t::text) FROM {table} t ORDER BY 1"
    found = rows(p.destination, query)
    assert found == rows(p.source, query)


async def test_long_values_of_every_kind_of_type_arrive(streaming: Pipeline) -> None:
    run(
        streaming.source,
        f"INSERT INTO keyed VALUES (1, {values('one')})",
        f"INSERT INTO keyed SELECT g, {values('two')} FROM generate_series(2, 3) g",
        f"UPDATE keyed SET (n, t, v, b, j, a, i, p, d, r) = ROW({values('three')}) WHERE id = 2",
        "UPDATE keyed SET n = n + 1",
        "UPDATE keyed SET id = 9, t = t || 'longer' WHERE id = 3",
        "DELETE FROM keyed WHERE id = 1",
    )
    await streaming.drain("done")
    assert_equal(streaming, "keyed")


async def test_one_of_several_equal_rows_is_found_by_its_long_values(streaming: Pipeline) -> None:
    run(
        streaming.source,
        f"INSERT INTO bare SELECT {values('one')} FROM generate_series(1, 3)",
        f"INSERT INTO bare SELECT {values('two')}",
        "UPDATE bare SET n = 2 WHERE ctid = (SELECT min(ctid) FROM bare)",
        "DELETE FROM bare WHERE ctid = (SELECT max(ctid) FROM bare WHERE n = 1 AND t LIKE '%one')",
    )
    await streaming.drain("done")
    assert_equal(streaming, "bare")


async def test_a_generated_identity_changes_beside_long_values(streaming: Pipeline) -> None:
    run(
        streaming.source,
        f"INSERT INTO counted (t, b) VALUES ({_TEXT.format(seed='1')}, {_HEX.format(seed='1')})",
        "UPDATE counted SET id = DEFAULT, b = b || b",
    )
    await streaming.drain("done")
    assert_equal(streaming, "counted")


async def test_a_refused_long_value_stops_at_its_row_and_is_tried_again(streaming: Pipeline) -> None:
    """What was sent ahead of it is rolled back with the table of pieces itself."""
    run(streaming.destination, "ALTER TABLE keyed ADD CHECK (n < 2)")
    run(
        streaming.source,
        f"INSERT INTO keyed VALUES (1, {values('one')})",
        f"INSERT INTO keyed VALUES (2, {values('two')})",
        "UPDATE keyed SET n = 5, t = t || 'x' WHERE id = 2",
    )
    error = await streaming.failure("applier")
    assert error.kind is ErrorKind.APPLY_FAILED
    assert "public.keyed" in str(error)
    assert "id=2" in str(error)
    run(streaming.destination, "ALTER TABLE keyed DROP CONSTRAINT keyed_n_check")
    streaming.start_applier()
    await streaming.drain("done")
    assert_equal(streaming, "keyed")


async def test_a_long_value_is_never_cut_to_a_narrower_column(streaming: Pipeline) -> None:
    run(streaming.destination, "ALTER TABLE keyed ALTER v TYPE varchar(100000)")
    run(streaming.source, f"INSERT INTO keyed VALUES (1, {values('one')})")
    error = await streaming.failure("applier")
    assert error.kind is ErrorKind.APPLY_FAILED
    assert "too long" in str(error)


async def test_no_part_of_a_long_value_remains(streaming: Pipeline) -> None:
    run(streaming.source, f"INSERT INTO keyed VALUES (1, {values('one')})")
    await streaming.drain("done")
    query = (
        "SELECT pg_relation_size(oid) + pg_relation_size(reltoastrelid) FROM pg_class"
        " WHERE relname = 'pgmig_fragments'"
    )
    assert rows(streaming.destination, query) == [(0,)]
