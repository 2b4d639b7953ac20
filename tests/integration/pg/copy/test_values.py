"""Values of every type arrive exactly: through change capture, and through the copier."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import psycopg
import pytest

from services.shared.bus.connection import bus
from services.shared.model import MigrationId, TableId
from services.shared.pg.copy.part import PartCopier
from tests.support.copying.databases import exported_snapshot, keep_books, parts_of
from tests.support.data.value_tables import PHASES, ValuesBed, make_odd
from tests.support.data.values.cases import CASES
from tests.support.data.values.structures import XML
from tests.support.pipeline.in_process import Pipeline
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer

pytestmark = pytest.mark.timeout(120)


@asynccontextmanager
async def streaming(bed: ValuesBed, nats: NatsServer) -> AsyncIterator[Pipeline]:
    """The bed's tables on both sides, and a pipeline that carries them."""
    bed.create()
    async with bus(nats.url, "test") as client:
        tables = tuple(TableId("public", name) for name in bed.table_names())
        pipeline = Pipeline(bed.source, bed.destination, client, tables)
        try:
            await pipeline.start_decoder()
            pipeline.start_applier()
            yield pipeline
        finally:
            for name in list(pipeline.tasks):
                await pipeline.stop(name)


async def survive_every_change(bed: ValuesBed, nats: NatsServer) -> None:
    """Fill the source, change it in every way, and compare after each."""
    async with streaming(bed, nats) as pipeline:
        bed.fill()
        await pipeline.drain("INSERT")
        assert bed.differences() == []
        for phase in PHASES:
            bed.change(phase)
            await pipeline.drain(phase.name)
            assert bed.differences() == [], phase.name


@pytest.mark.parametrize("odd", ["no side", "source", "destination"])
async def test_values_survive_every_change(
    source_db: str, dest_db: str, nats_server: NatsServer, odd: str
) -> None:
    for side, uri in (("source", source_db), ("destination", dest_db)):
        if side == odd:
            make_odd(uri)
    await survive_every_change(ValuesBed(source_db, dest_db, CASES), nats_server)


@pytest.mark.parametrize("odd", [False, True], ids=["plain", "odd"])
async def test_xml_survives_every_change(
    source_server: PostgresServer, dest_server: PostgresServer, nats_server: NatsServer, odd: bool
) -> None:
    server = next((each for each in (source_server, dest_server) if knows_xml(each)), None)
    if server is None:
        pytest.skip("no PostgreSQL here was built with libxml")
    with server.fresh_database("source") as source, server.fresh_database("dest") as dest:
        if odd:
            make_odd(source)
            make_odd(dest)
        await survive_every_change(ValuesBed(source, dest, [XML]), nats_server)


def knows_xml(server: PostgresServer) -> bool:
    with server.connect() as conn:
        try:
            conn.execute("SELECT CAST('<a/>' AS xml)")
        except psycopg.errors.FeatureNotSupported:
            return False
    return True


@pytest.mark.parametrize(
    ("binary", "odd"), [(False, False), (False, True), (True, True)], ids=["text", "text-odd", "binary-odd"]
)
async def test_values_survive_the_copy(source_db: str, dest_db: str, binary: bool, odd: bool) -> None:
    bed = ValuesBed(source_db, dest_db, CASES)
    if odd:
        make_odd(source_db)
        make_odd(dest_db)
    bed.create()
    bed.fill()
    await keep_books(dest_db)
    await copy_all(bed, binary=binary)
    assert bed.differences() == []


async def copy_all(bed: ValuesBed, *, binary: bool) -> None:
    copier = PartCopier(bed.source, bed.destination, MigrationId("values").forward)
    try:
        with exported_snapshot(bed.source) as snapshot:
            for part in await parts_of(bed.source, snapshot):
                copied = await copier.copy(
                    part if binary else replace(part, binary=False), lambda _rows, _bytes: None
                )
                assert copied is not None
    finally:
        await copier.close()
