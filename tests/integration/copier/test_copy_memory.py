"""A copier's memory is bounded, whatever the size of a table or of a row, with TLS and without."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.shared.bus.queue import publish_parts
from services.shared.model import CopyPart, MigrationId
from tests.fakes.copier_coordinator import Stand, copier_stand
from tests.support.copying.databases import execute, exported_snapshot, keep_books, part, scalar
from tests.support.servers.nats import NatsServer
from tests.support.servers.tls import tls_uri

pytestmark = pytest.mark.xdist_group("heavy")

PIPELINE = MigrationId("m1").forward
MIB = 1 << 20


@pytest.fixture
async def stand(source_db: str, dest_db: str, nats_server: NatsServer) -> AsyncIterator[Stand]:
    await keep_books(dest_db)
    async with copier_stand(source_db, dest_db, nats_server, "m1") as ready:
        yield ready


@pytest.fixture
async def tls_stand(tls_source: str, tls_dest: str, nats_server: NatsServer) -> AsyncIterator[Stand]:
    await keep_books(tls_dest)
    async with copier_stand(tls_uri(tls_source), tls_uri(tls_dest), nats_server, "m1") as ready:
        yield ready


async def copied(stand: Stand, given: CopyPart) -> None:
    """By the copier that runs."""
    await publish_parts(stand.client, PIPELINE, [given])
    stand.assign("c1", PIPELINE)
    await stand.coordinator.until(lambda: len(stand.coordinator.done()) == 1)


async def copy_of_large_rows(stand: Stand, kind: str, *, binary: bool) -> None:
    """Two rows of 100 MB; as the text of a bytea, 200."""
    value = "convert_to(repeat('{}', 100000000), 'UTF8')" if kind == "bytea" else "repeat('{}', 100000000)"
    execute(
        stand.source,
        f"CREATE TABLE t (a {kind})",
        *(f"INSERT INTO t SELECT {value.format(letter)}" for letter in "xy"),
    )
    execute(stand.dest, f"CREATE TABLE t (a {kind})")
    with exported_snapshot(stand.source) as snapshot:
        await stand.start("c1")
        await copied(stand, part("t", "a", snapshot=snapshot, binary=binary))
        peak = stand.peak_memory("c1")
    assert stand.coordinator.done()[0].rows == 2
    digests = "SELECT string_agg(length(a) || md5(a), ' ' ORDER BY a) FROM t"
    assert scalar(stand.dest, digests) == scalar(stand.source, digests)
    assert peak < 150 * MIB


async def test_memory_does_not_grow_with_the_table(stand: Stand) -> None:
    execute(
        stand.source,
        "CREATE TABLE t (a int, b text)",
        "INSERT INTO t SELECT n, repeat('x', 100000) FROM generate_series(1, 4000) AS n",
    )
    execute(stand.dest, "CREATE TABLE t (a int, b text)")
    with exported_snapshot(stand.source) as snapshot:
        await stand.start("c1")
        before = stand.peak_memory("c1")
        await copied(stand, part("t", "a", "b", snapshot=snapshot))
        grown = stand.peak_memory("c1") - before
    assert stand.coordinator.done()[0].bytes > 400_000_000
    assert grown < 20 * MIB
    assert before + grown < 150 * MIB


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", ["text", "bytea"])
async def test_memory_does_not_grow_with_the_row(stand: Stand, kind: str, binary: bool) -> None:
    await copy_of_large_rows(stand, kind, binary=binary)


@pytest.mark.parametrize("kind", ["text", "bytea"])
async def test_memory_does_not_grow_with_the_row_over_tls(tls_stand: Stand, kind: str) -> None:
    await copy_of_large_rows(tls_stand, kind, binary=False)
