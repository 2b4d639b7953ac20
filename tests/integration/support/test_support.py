"""The lab itself: what proves a migration must be shown to find what is wrong with one."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import LiteralString

import nats
import psutil
import psycopg
import pytest
from nats.js.errors import NotFoundError

from tests.support.data import compare
from tests.support.data.compare import compare_databases
from tests.support.data.operations import OPERATIONS, truncate_scratch
from tests.support.data.schema import seed
from tests.support.data.workload import Writer, WriterReport, check_conserved_sum, check_markers
from tests.support.servers.installs import PostgresInstall, installs, oldest, usable
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.process import unprivileged_account

pytestmark = pytest.mark.xdist_group("lab")


def fetch(uri: str, query: LiteralString) -> list[tuple[object, ...]]:
    with psycopg.connect(uri) as connection:
        return connection.execute(query).fetchall()


def change(uri: str, statements: LiteralString) -> None:
    with psycopg.connect(uri) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(statements)


# Servers


@pytest.mark.parametrize("install", installs(), ids=lambda i: str(i.major))
def test_server_is_ready_for_logical_replication_and_brings_its_tools(install: PostgresInstall) -> None:
    with PostgresServer(install) as server:
        (row,) = fetch(
            server.uri(), "SELECT current_setting('server_version_num')::int, current_setting('wal_level')"
        )
        assert row == (install.major * 10000 + int(str(row[0])[-4:]), "logical")
        for tool in ("pg_dump", "pg_restore"):
            shown = subprocess.check_output([server.bin_dir / tool, "--version"], text=True)
            assert f" {install.major}." in shown
        subprocess.run(
            [server.bin_dir / "pg_dump", "--schema-only", server.uri()], check=True, capture_output=True
        )
        root = server.root
    assert not root.exists()


def test_wrong_password_is_refused(source_server: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(source_server.uri(password="wrong"))


def test_server_settings_can_be_overridden() -> None:
    with PostgresServer(settings={"wal_level": "replica"}) as server:
        assert fetch(server.uri(), "SHOW wal_level") == [("replica",)]
        assert fetch(server.uri(), "SHOW fsync") == [("on",)]


def test_a_committed_row_outlives_kill9() -> None:
    with PostgresServer(oldest()) as server:
        change(server.uri(), "CREATE TABLE t AS SELECT 1 AS a")
        family = psutil.Process(server.pid).children(recursive=True)
        server.kill9()
        assert family
        assert psutil.wait_procs(family, timeout=30)[1] == []
        server.start()
        assert fetch(server.uri(), "SELECT a FROM t") == [(1,)]


def test_servers_die_with_the_process_that_started_them() -> None:
    program = (
        "import os, signal\n"
        "from tests.support.servers.nats import NatsServer\n"
        "from tests.support.servers.postgres import PostgresServer\n"
        "servers = PostgresServer(), NatsServer()\n"
        "for server in servers: server.start(); print(server.pid, server.root, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGSTOP)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        started = [parent.stdout.readline().split() for _ in range(2)]
        processes = [psutil.Process(int(pid)) for pid, _ in started]
        assert all(process.is_running() for process in processes)
        parent.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(processes, timeout=60)
    for process in alive:
        process.kill()
    for _, root in started:
        shutil.rmtree(root)
    assert not alive


@pytest.fixture
def hidden_bin_dir(tmp_path: Path) -> Iterator[Path]:
    """A wheel's bin folder below one that only its owner may enter, without the right to execute."""
    real = next((i.bin_dir for i in installs() if i.bin_dir.parent.name == "pginstall"), None)
    if real is None:
        pytest.skip("no PostgreSQL from a wheel here")
    package = real.parent.parent
    hidden = tmp_path / "hidden"
    install = hidden / package.name / "pginstall"
    install.mkdir(parents=True)
    shutil.copytree(real, install / "bin")
    for part in ("lib", "share"):
        (install / part).symlink_to(real.parent / part)
    bundled = package.with_name(f"{package.name}.libs")
    if bundled.exists():
        (hidden / bundled.name).symlink_to(bundled)
    for program in (install / "bin").iterdir():
        program.chmod(0o600)
    hidden.chmod(0o700)
    yield install / "bin"


def test_server_that_the_account_cannot_reach_is_made_reachable(hidden_bin_dir: Path) -> None:
    install = usable(hidden_bin_dir, unprivileged_account())
    assert install is not None
    assert hidden_bin_dir not in (install.bin_dir, *install.bin_dir.parents)
    with PostgresServer(install) as server:
        if os.geteuid() == 0:
            assert psutil.Process(server.pid).username() == "nobody"
        assert fetch(server.uri(), "SELECT 1") == [(1,)]


def test_fresh_database_leaves_neither_slot_nor_origin(source_server: PostgresServer) -> None:
    with source_server.fresh_database() as uri:
        change(uri, "SELECT pg_create_logical_replication_slot('left_over', 'pgoutput')")
        change(uri, "SELECT pg_replication_origin_create('left_over')")
    with source_server.connect() as connection:
        assert connection.execute("SELECT FROM pg_replication_slots").rowcount == 0
        assert connection.execute("SELECT FROM pg_replication_origin").rowcount == 0


def test_database_goes_though_its_slot_is_taken_again(source_server: PostgresServer) -> None:
    """As by the last request of a client that was killed while an earlier session held the slot."""
    taken = threading.Event()

    def take(uri: str) -> None:
        with closing(psycopg.connect(f"{uri}?replication=database", autocommit=True)) as connection:
            begin = "START_REPLICATION SLOT again LOGICAL 0/0 (proto_version '1', publication_names 'p')"
            while connection.pgconn.exec_(begin.encode()).status != psycopg.pq.ExecStatus.COPY_BOTH:
                if connection.broken:
                    return
                time.sleep(0.001)  # the session before has not let it go yet
            taken.set()
            connection.pgconn.get_copy_data(0)  # until the session is ended

    def client(uri: str) -> None:
        with suppress(psycopg.Error):
            take(uri)

    with source_server.fresh_database() as uri:
        change(uri, "SELECT pg_create_logical_replication_slot('again', 'pgoutput')")
        clients = [threading.Thread(target=client, args=(uri,)) for _ in range(4)]
        for one in clients:
            one.start()
        assert taken.wait(10)
    with source_server.connect() as connection:
        assert connection.execute("SELECT FROM pg_replication_slots").rowcount == 0
    for one in clients:
        one.join(10)
        assert not one.is_alive()


async def test_nats_server_keeps_its_port_and_its_streams_unless_wiped(nats_server: NatsServer) -> None:
    async def has_stream() -> bool:
        client = await nats.connect(nats_server.url)
        assert client.max_payload == 8 * 1024 * 1024
        try:
            with suppress(NotFoundError):
                return bool(await client.jetstream().stream_info("S"))
            return False
        finally:
            await client.close()

    client = await nats.connect(nats_server.url)
    await client.jetstream().add_stream(name="S", subjects=["s"])
    await client.close()
    nats_server.kill9()
    nats_server.restart()
    assert await has_stream()
    nats_server.restart(wipe_store=True)
    assert not await has_stream()


# Comparison


@pytest.fixture(scope="module")
def seeded(source_server: PostgresServer, dest_server: PostgresServer) -> Iterator[tuple[str, str]]:
    """A seeded source, never changed here, and the name of an equal database on the destination."""
    name = "lab_template"
    with source_server.fresh_database("seeded") as source:
        seed(source, 1000)
        seed(dest_server.create_database(name), 1000)
        yield source, name
        dest_server.drop_database(name)


@pytest.fixture
def equal_pair(seeded: tuple[str, str], dest_server: PostgresServer) -> Iterator[tuple[str, str]]:
    """Two URIs with equal content; the second one's may be changed."""
    source, template = seeded
    with dest_server.fresh_database("copy", template) as dest:
        yield source, dest


def test_equal_databases_have_no_differences(equal_pair: tuple[str, str]) -> None:
    change(equal_pair[1], "CREATE SCHEMA pgmig; CREATE TABLE pgmig.ledger AS SELECT 1")
    assert compare_databases(*equal_pair) == []


ONE_DUPLICATE: LiteralString = (
    "(SELECT min(ctid) FROM shop.audit_log GROUP BY audit_log::text HAVING count(*) > 1 ORDER BY 1 LIMIT 1)"
)
SINGLE: LiteralString = (
    "(SELECT min(ctid) FROM shop.audit_log GROUP BY audit_log::text HAVING count(*) = 1 ORDER BY 1 LIMIT 1)"
)
ROW_CHANGES: dict[str, tuple[LiteralString, str]] = {
    "value": ("UPDATE shop.accounts SET balance = balance + 0.01 WHERE id = 7", "shop.accounts"),
    "partition leaf": ("DELETE FROM shop.events_2025_click WHERE id = 6", "shop.events_2025_click"),
    "empty for NULL": ("UPDATE shop.edge_values SET txt = '' WHERE id = 1", "shop.edge_values"),
    "negative zero": ("UPDATE shop.edge_values SET dbl = 0 WHERE dbl = 0", "shop.edge_values"),
    "numeric scale": (
        "UPDATE shop.edge_values SET num = num::numeric(30, 25) WHERE id = 3",
        "shop.edge_values",
    ),
    "missing duplicate": ("DELETE FROM shop.audit_log WHERE ctid = " + ONE_DUPLICATE, "shop.audit_log"),
    "additional duplicate": (
        "INSERT INTO shop.audit_log SELECT * FROM shop.audit_log WHERE ctid = " + ONE_DUPLICATE,
        "shop.audit_log",
    ),
    "another duplicate": (  # the same set of rows, and as many
        "INSERT INTO shop.audit_log SELECT * FROM shop.audit_log WHERE ctid = " + SINGLE + ";"
        "DELETE FROM shop.audit_log WHERE ctid = " + ONE_DUPLICATE,
        "shop.audit_log",
    ),
    "quoted name": ('UPDATE public."Mixed Case" SET "Größe" = 0 WHERE "Id" = 500', "public.Mixed Case"),
    "row in an empty table": ("INSERT INTO shop.never_filled VALUES (1)", "shop.never_filled"),
    "all rows": ("TRUNCATE shop.documents", "shop.documents"),
}


@pytest.mark.parametrize("small_rows", [20_000, -1], ids=["by row", "by hash"])
@pytest.mark.parametrize("name", ROW_CHANGES)
def test_one_changed_row_is_found(
    equal_pair: tuple[str, str], name: str, small_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement, table = ROW_CHANGES[name]
    monkeypatch.setattr(compare, "_SMALL_ROWS", small_rows)
    change(equal_pair[1], statement)
    differences = compare_databases(*equal_pair)
    assert [d.split(" differs")[0] for d in differences] == [f"table {table}"]


def test_a_difference_names_the_rows(equal_pair: tuple[str, str]) -> None:
    change(equal_pair[1], "UPDATE shop.scratch SET value = 'other' WHERE id = 9")
    (difference,) = compare_databases(*equal_pair)
    assert "only at the source: (9,s9)" in difference
    assert "only at the destination: (9,other)" in difference


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("SELECT nextval('shop.voucher_seq')", "sequence value of shop.voucher_seq"),
        ("SELECT setval('shop.order_number_seq', 1000, true)", "sequence value of shop.order_number_seq"),
        ("SELECT setval('shop.accounts_id_seq', 151)", "sequence value of shop.accounts_id_seq"),
        ("DROP INDEX shop.accounts_owner_idx", "index shop.accounts_owner_idx"),
        ("ALTER TABLE shop.ledger DROP CONSTRAINT ledger_source_id_fkey", "constraint shop.ledger"),
        ("ALTER TABLE shop.orders DISABLE TRIGGER orders_log", "trigger shop.orders orders_log"),
        ("ALTER TABLE shop.audit_log REPLICA IDENTITY DEFAULT", "relation shop.audit_log"),
        ("ALTER TABLE shop.scratch ALTER id DROP IDENTITY", "column shop.scratch.id"),
        ("COMMENT ON SCHEMA shop IS 'another'", "comment schema shop"),
        ("ALTER TYPE shop.order_status RENAME VALUE 'new' TO 'newer'", "enum shop.order_status"),
        ("DROP VIEW shop.account_activity", "relation shop.account_activity"),
        ("REFRESH MATERIALIZED VIEW shop.totals_by_status WITH NO DATA", "relation shop.totals_by_status"),
        ("DROP TABLE shop.never_filled", "table shop.never_filled exists only at the source"),
    ],
)
def test_a_sequence_or_definition_that_is_off_is_found(
    equal_pair: tuple[str, str], statement: LiteralString, found: str
) -> None:
    change(equal_pair[1], statement)
    differences = compare_databases(*equal_pair)
    assert any(difference.startswith(found) for difference in differences), differences


# Writer


def test_writer_conserves_the_sum_and_knows_its_commits(source_db: str) -> None:
    seed(source_db, 3000)
    writer = Writer(source_db, rate=None)
    with writer:
        writer.wait_for_commits(1500)
        assert check_conserved_sum(source_db) == []
    report = writer.stop()
    assert report.rolled_back
    assert check_conserved_sum(source_db) == []
    assert check_markers(source_db, report) == []
    done = {row[0] for row in fetch(source_db, "SELECT DISTINCT operation FROM shop.markers")}
    assert done >= {operation.__name__ for operation in OPERATIONS}
    assert fetch(source_db, "SELECT FROM shop.audit_log WHERE what = 'must not be seen'") == []


def test_writer_commits_in_another_order_than_it_begins(source_db: str) -> None:
    seed(source_db)
    change(source_db, "CREATE PUBLICATION p FOR ALL TABLES")
    change(source_db, "SELECT pg_create_logical_replication_slot('commit_order', 'pgoutput')")
    with Writer(source_db, connections=1, rate=None) as writer:
        writer.wait_for_commits(100)
    messages = fetch(
        source_db,
        "SELECT data FROM pg_logical_slot_peek_binary_changes('commit_order', NULL, NULL,"
        " 'proto_version', '1', 'publication_names', 'p')",
    )
    begins = [data for (data,) in messages if isinstance(data, bytes) and data[:1] == b"B"]
    xids = [struct.unpack(">17xI", begin)[0] for begin in begins]
    assert xids
    assert xids != sorted(xids)


def test_lost_commit_or_sum_is_found(source_db: str) -> None:
    seed(source_db, 1000)
    with Writer(source_db, connections=1, rate=None) as writer:
        writer.wait_for_commits(20)
    report = writer.stop()
    change(source_db, "DELETE FROM shop.markers WHERE id = (SELECT min(id) FROM shop.markers)")
    change(source_db, "UPDATE shop.accounts SET balance = balance + 0.01 WHERE id = 1")
    assert "1 acknowledged commits are missing" in "".join(check_markers(source_db, report))
    assert len(check_conserved_sum(source_db)) == 1


def test_rolled_back_transaction_that_shows_up_is_found(source_db: str) -> None:
    seed(source_db, 1000)
    change(source_db, "INSERT INTO shop.markers (id, operation) VALUES ('ghost', 'x')")
    report = WriterReport((), ("ghost",), 0, 0.0, "")
    assert check_markers(source_db, report) == ["1 rolled back ones are present: ghost"]


def test_writer_ends_when_the_database_turns_read_only(source_server: PostgresServer, source_db: str) -> None:
    seed(source_db, 1000)
    name = psycopg.conninfo.conninfo_to_dict(source_db)["dbname"]
    assert isinstance(name, str)
    with Writer(source_db, reconnect_for=0.2) as writer:
        writer.wait_for_commits(20)
        with source_server.connect() as connection:
            connection.execute(
                psycopg.sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(
                    psycopg.sql.Identifier(name)
                )
            )
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )
        report = writer.wait_until_cut_off()
    assert "read-only" in report.cut_off_by
    assert check_markers(source_db, report) == []


def test_writer_goes_on_after_the_server_was_killed_and_no_acknowledged_commit_is_lost() -> None:
    with PostgresServer(oldest()) as server:
        uri = server.create_database("shop")
        seed(uri, 1000)
        with Writer(uri, rate=None, reconnect_for=30) as writer:
            writer.wait_for_commits(50)
            server.kill9()
            server.start()
            writer.wait_for_commits(50)
        assert check_markers(uri, writer.stop()) == []
        assert check_conserved_sum(uri) == []


def test_operations_can_be_chosen(source_db: str) -> None:
    seed(source_db, 1000)
    with Writer(source_db, operations=[truncate_scratch]) as writer:
        writer.wait_for_commits(5)
    assert fetch(source_db, "SELECT DISTINCT operation FROM shop.markers") == [("truncate_scratch",)]
    assert fetch(source_db, "SELECT count(*) FROM shop.scratch") == [(5,)]
