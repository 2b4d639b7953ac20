"""What decoder, applier and nats-server hold in memory at most, as processes, whatever the source does.

Peaks are VmHWM, which the kernel keeps. Rows are compared whole, by digest, on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from services.shared.model import TableId
from tests.support.pipeline.processes import PipelineProcesses
from tests.support.servers.installs import newest, oldest
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.tls import tls_uri, turn_on_tls

CAP_MB = 300
ROWS = 2_000_000
VALUE_MB = 100
DRAIN_S = 240
SETTINGS = {"max_wal_size": "4GB", "synchronous_commit": "off", "shared_buffers": "128MB"}
DDL = """
CREATE TABLE many (id int PRIMARY KEY, n int, v text);
CREATE TABLE huge (id int PRIMARY KEY, n int, v text);
CREATE TABLE blobs (id int PRIMARY KEY, n int, v bytea);
CREATE TABLE bare (id int, n int, v text);
ALTER TABLE huge ALTER v SET STORAGE EXTERNAL;
ALTER TABLE blobs ALTER v SET STORAGE EXTERNAL;
ALTER TABLE bare ALTER v SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
"""
TABLES = tuple(TableId("public", name) for name in ("many", "huge", "blobs", "bare"))

pytestmark = [pytest.mark.timeout(2 * DRAIN_S), pytest.mark.xdist_group("heavy")]


class Stage:
    """Two servers and a pipeline of processes between them."""

    def __init__(self, source: str, destination: str, nats: NatsServer, pipeline: PipelineProcesses) -> None:
        self.source = source
        self.destination = destination
        self.pipeline = pipeline
        self._nats = nats

    def run(self, *statements: str) -> None:
        with psycopg.connect(self.source, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())

    def peaks_mb(self) -> dict[str, int]:
        pids = {role: self.pipeline.pid(role) for role in ("decoder", "applier")}
        return {role: _peak_mb(pid) for role, pid in {**pids, "nats-server": self._nats.pid}.items()}

    def assert_small(self) -> None:
        peaks = self.peaks_mb()
        print("peaks:", peaks)
        assert max(peaks.values()) < CAP_MB, peaks

    def assert_equal(self) -> None:
        for table in TABLES:
            query = (
                "SELECT count(*), sum(('x' || left(md5(id || ':' || n || md5(v)), 15))::bit(60)::bigint)"
                f" FROM {table.name}"
            ).encode()
            found = []
            for uri in (self.source, self.destination):
                with psycopg.connect(uri) as conn:
                    found.append(conn.execute(query).fetchone())
            assert found[0] == found[1], table


@pytest.fixture
def stage(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Parametrized with True: what can be spoken to by TLS is, the source in any case."""
    encrypted = getattr(request, "param", False)
    with (
        PostgresServer(oldest(), settings={**SETTINGS, "wal_sender_timeout": "5s"}) as source,
        PostgresServer(newest(), settings=SETTINGS) as destination,
        NatsServer() as nats,
    ):
        uris = source.create_database("app"), destination.create_database("app")
        for uri in uris:
            with psycopg.connect(uri, autocommit=True) as conn:
                conn.execute(DDL)
        if encrypted:
            if not turn_on_tls(source):
                pytest.skip(f"PostgreSQL {source.install.major} here was built without TLS")
            uris = tls_uri(uris[0]), tls_uri(uris[1]) if turn_on_tls(destination) else uris[1]
        with PipelineProcesses(*uris, nats.url, TABLES, tmp_path) as pipeline:
            pipeline.start("decoder")
            pipeline.start("applier")
            pipeline.drain("started", 60)
            yield Stage(*uris, nats, pipeline)


def _peak_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) >> 10


def test_a_transaction_of_two_million_rows(stage: Stage) -> None:
    stage.run(f"INSERT INTO many SELECT i, i, md5(i::text) FROM generate_series(1, {ROWS}) i")
    stage.pipeline.drain("done", DRAIN_S)
    stage.assert_small()
    stage.assert_equal()


def test_values_of_a_hundred_megabytes(stage: Stage) -> None:
    """Several in a row: inserted, updated, and left alone by an update of their row."""
    value = f"repeat(md5('%s'), {VALUE_MB} << 15)"
    stage.run(
        f"INSERT INTO huge VALUES (1, 0, {value % 'a'})",
        f"INSERT INTO huge SELECT i, 0, {value % 'b'} FROM generate_series(2, 3) i",
        f"UPDATE huge SET v = {value % 'c'} WHERE id = 1",
        "UPDATE huge SET n = n + 1",
        "INSERT INTO many SELECT i, i, md5(i::text) FROM generate_series(1, 1000) i",
    )
    stage.pipeline.drain("done", DRAIN_S)
    stage.assert_small()
    stage.assert_equal()


@pytest.mark.parametrize("stage", [False, True], ids=["plain", "tls"], indirect=True)
def test_a_bytea_of_a_hundred_megabytes(stage: Stage) -> None:
    """Two hundred as the text that the source sends."""
    value = f"decode(repeat(md5('%s'), {VALUE_MB} << 16), 'hex')"
    stage.run(
        f"INSERT INTO blobs VALUES (1, 0, {value % 'a'})",
        f"INSERT INTO blobs SELECT i, 0, {value % 'b'} FROM generate_series(2, 3) i",
        f"UPDATE blobs SET v = {value % 'c'} WHERE id = 1",
        "UPDATE blobs SET n = n + 1",
        "UPDATE blobs SET id = 4 WHERE id = 2",
    )
    stage.pipeline.drain("done", DRAIN_S)
    stage.assert_small()
    assert stage.peaks_mb()["applier"] < VALUE_MB
    stage.assert_equal()


def test_a_row_without_a_key_that_is_found_by_a_hundred_megabytes(stage: Stage) -> None:
    """Its old row comes whole, and so does its new one."""
    value = f"repeat(md5('%s'), {VALUE_MB} << 15)"
    stage.run(
        f"INSERT INTO bare SELECT 1, i, {value % 'a'} FROM generate_series(1, 2) i",
        f"UPDATE bare SET v = {value % 'b'} WHERE n = 1",
        "DELETE FROM bare WHERE n = 2",
    )
    stage.pipeline.drain("done", DRAIN_S)
    stage.assert_small()
    assert stage.peaks_mb()["applier"] < VALUE_MB
    stage.assert_equal()


def test_a_destination_that_blocks_the_applier(stage: Stage) -> None:
    """Longer than the source waits for a walsender's client, with more to come than anyone may hold."""
    with (
        psycopg.connect(stage.destination) as blocker,
        psycopg.connect(stage.source, autocommit=True) as conn,
    ):
        blocker.execute("LOCK TABLE many IN ACCESS EXCLUSIVE MODE")
        walsender = conn.execute("SELECT pid FROM pg_stat_replication").fetchone()
        for first in range(0, ROWS, ROWS // 20):
            stage.run(
                f"INSERT INTO many SELECT i, i, repeat(md5(i::text), 8)"
                f" FROM generate_series({first + 1}, {first + ROWS // 20}) i"
            )
        conn.execute("SELECT pg_sleep(12)")  # twice wal_sender_timeout
        assert conn.execute("SELECT pid FROM pg_stat_replication").fetchone() == walsender
        stage.pipeline.check()
        blocker.rollback()
    stage.pipeline.drain("done", DRAIN_S)
    stage.assert_small()
    stage.assert_equal()
