"""The application that writes during a migration knows its commits and finds those that are missing."""

from __future__ import annotations

import struct

import psycopg

from tests.support.data.operations import OPERATIONS, truncate_scratch
from tests.support.data.schema import seed
from tests.support.data.workload import Writer, WriterReport, check_conserved_sum, check_markers
from tests.support.servers.installs import oldest
from tests.support.servers.postgres import PostgresServer
from tests.support.sql import change, fetch

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


def test_writer_continues_after_the_server_was_killed_and_no_acknowledged_commit_is_lost() -> None:
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
