"""The servers of the tests: ready for logical replication, and ended with the process that started them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import nats
import psutil
import psycopg
import pytest
from nats.js.errors import NotFoundError

from tests.support.servers.installs import PostgresInstall, installs, oldest, usable
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.process import unprivileged_account
from tests.support.sql import change, fetch

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
