"""The embedded stack keeps other users of the machine out: sockets, files, links, and long paths."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.embedded.broker import BrokerFiles, find_nats_server
from clients.embedded.child import Child, Program, lifeline
from clients.embedded.logfile import open_log
from clients.embedded.stack import embedded_stack
from clients.session import Session
from services.shared.model import ErrorKind, MigrationOptions, PgmigError, socket_path
from services.shared.runtime.logfile import LIMIT
from tests.support.servers.process import free_port, unprivileged_account
from tests.support.services.embedded import (
    SECRET,
    Notes,
    directory,
    eventually,
    listening,
    own_children,
    plan,
    running,
)

_CONNECT_AS = """
import os, socket, sys
connection = socket.socket(socket.AF_UNIX)
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
try:
    connection.connect(sys.argv[1])
except PermissionError:
    print("refused")
else:
    print("connected")
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="pgmig-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def entries(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def connected_as_another_user(path: Path) -> str:
    account = unprivileged_account()
    if account is None:
        pytest.skip("only root can try as another user")
    command = [sys.executable, "-c", _CONNECT_AS, str(path), str(account.uid)]
    return subprocess.check_output(command, text=True).strip()


async def test_coordinator_listens_on_a_socket_that_no_other_user_reaches(open_folder: Path) -> None:
    async with running(open_folder) as address:
        path = socket_path(address)
        assert path == open_folder / "m" / "coordinator.sock"
        await eventually(lambda: "fakes.coordinator" in own_children())
        assert listening(own_children()["fakes.coordinator"]) == {str(path)}
        assert (mode(path), mode(path.parent)) == (0o600, 0o700)
        assert connected_as_another_user(path) == "refused"
    assert not path.exists()


async def test_no_other_user_reaches_the_socket_even_in_an_open_directory(open_folder: Path) -> None:
    """The socket's own mode keeps others out, too."""
    async with running(open_folder) as address:
        path = socket_path(address)
        assert path is not None
        path.parent.chmod(0o755)
        assert connected_as_another_user(path) == "refused"


async def test_broker_demands_this_runs_token(state_dir: Path) -> None:
    async with running(state_dir):
        await eventually(lambda: "nats-server" in own_children())
        (port,) = listening(own_children()["nats-server"])
        with socket.create_connection(("127.0.0.1", int(str(port)))) as client:
            lines = client.makefile("rb")
            assert json.loads(lines.readline().removeprefix(b"INFO "))["auth_required"]
            client.sendall(b'CONNECT {"verbose":true}\r\n')
            assert b"Authorization Violation" in lines.readline()


async def test_long_state_directory_works_and_other_terminals_find_it(tmp_path: Path) -> None:
    state = tmp_path / ("deep" * 40) / "a folder's name with spaces"
    async with running(state) as address:
        path = socket_path(address)
        assert path is not None
        assert len(str(path)) < 108
        assert (mode(path), mode(path.parent)) == (0o600, 0o700)
        stack = directory(state).running_stack()
        assert stack is not None
        async with Session(stack.coordinator) as session:
            await session.start("m", SECRET, SECRET, MigrationOptions(follow=True))
    assert not path.parent.exists()


async def test_short_directory_of_a_killed_stack_goes_with_the_next(tmp_path: Path) -> None:
    state = tmp_path / ("deep" * 40)
    left = Path(tempfile.mkdtemp(prefix="pgmig-"))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left / "coordinator.sock"))
    directory(state).create()
    directory(state).write_stack(f"unix:{left}/coordinator.sock")
    async with running(state) as address:
        assert str(left) not in address
    assert str(left) not in [str(one) for one in entries(Path(tempfile.gettempdir()))]


@pytest.mark.parametrize(
    "name", ["stack.lock", "log/stack.log", "log/nats-server.log", "log/coordinator.log"]
)
async def test_nothing_is_written_through_a_link(state_dir: Path, tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    directory(state_dir).create()
    (state_dir / "m" / name).symlink_to(precious)
    with pytest.raises((PgmigError, OSError)):
        async with running(state_dir):
            pass
    assert precious.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_directory_of_another_user_is_refused(state_dir: Path) -> None:
    (state_dir / "m").mkdir()
    os.chown(state_dir / "m", 65534, 65534)
    with pytest.raises(PgmigError, match="another user") as caught:
        directory(state_dir).create()
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT


def test_world_writable_state_directory_is_refused(state_dir: Path) -> None:
    state_dir.chmod(0o777)
    with pytest.raises(PgmigError, match="every user may write"):
        directory(state_dir).create()
    state_dir.chmod(0o1777)
    directory(state_dir).create()


def test_directory_and_log_that_were_open_are_closed_to_others(state_dir: Path) -> None:
    (state_dir / "m").mkdir()
    (state_dir / "m").chmod(0o777)
    directory(state_dir).create()
    assert mode(state_dir / "m") == 0o700
    log = state_dir / "m" / "log" / "x.log"
    log.touch()
    log.chmod(0o666)
    os.close(open_log(log))
    assert mode(log) == 0o600


_UMASK = "import os, sys; os.umask(0); os.execv(sys.argv[1], sys.argv[1:])"


def test_every_file_is_private_whatever_the_umask(state_dir: Path) -> None:
    state_dir.chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PGMIG_")},
        "PGMIG_STATE_DIR": str(state_dir),
        "PGMIG_SOURCE_URI": SECRET,
        "PGMIG_DEST_URI": SECRET,
    }
    cli = [sys.executable, "-m", "tests.fakes.cli", "clone", "--id", "m"]
    done = subprocess.run(
        [sys.executable, "-c", _UMASK, *cli],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [path for path in (state_dir / "m").rglob("*") if not path.is_symlink()]
    assert {"state.json", "coordinator.log", "nats.conf", "store"} <= {path.name for path in found}
    assert [path for path in found if mode(path) & 0o077] == []


async def test_a_program_that_asks_for_no_mode_makes_private_files(tmp_path: Path) -> None:
    careless = tmp_path / "careless"
    script = f"open({str(careless)!r}, 'w').close()"
    before = os.umask(0)
    try:
        with lifeline() as ties:
            program = Program("careless", (sys.executable, "-c", script), dict(os.environ))
            child = await Child.start(program, tmp_path / "careless.log", ties)
            assert await child.wait() == 0
    finally:
        os.umask(before)
    assert mode(careless) == 0o600


async def test_service_logs_rotate_while_the_service_runs(state_dir: Path) -> None:
    async with embedded_stack(plan(state_dir), Notes()) as stack:
        await stack.serving()
        log = state_dir / "m" / "log" / "coordinator.log"
        await eventually(lambda: "ready" in log.read_text())
        before = log.stat().st_ino
        with log.open("ab") as file:
            file.truncate(LIMIT + 1)
        coordinator = own_children()["fakes.coordinator"]
        coordinator.send_signal(signal.SIGTERM)  # it says so in its log
        old = log.with_name("coordinator.log.1")
        await eventually(old.exists)
        assert old.stat().st_ino == before
        await eventually(log.exists)
        assert mode(log) == mode(old) == 0o600


def test_no_line_is_lost_when_a_log_rotates(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    script = (
        "import logging, sys\n"
        "from pathlib import Path\n"
        "from services.shared.runtime.logfile import OutputFileHandler\n"
        "handler = OutputFileHandler(Path(sys.argv[1]), 1000)\n"
        "logging.basicConfig(handlers=[handler], level='INFO')\n"
        "for n in range(150):\n"
        "    logging.info('%04d', n)\n"
        "    print('printed', n, flush=True)\n"
    )
    subprocess.run([sys.executable, "-c", script, path], check=True)
    files = (tmp_path / "x.log.1", path)
    assert all(file.stat().st_size < 1100 and mode(file) == 0o600 for file in files)
    lines = "".join(file.read_text() for file in files).splitlines()
    numbers = [int(line[-4:]) for line in lines if line.startswith("INFO")]
    assert numbers == list(range(numbers[0], 150))
    printed = [int(line.split()[-1]) for line in lines if line.startswith("printed")]
    assert printed == list(range(printed[0], 150))


def test_supervisors_log_rotates_and_is_private(tmp_path: Path) -> None:
    from services.shared.runtime.logfile import PrivateFileHandler

    path = tmp_path / "stack.log"
    handler = PrivateFileHandler(path, 1000)
    for number in range(200):
        handler.emit(logging.makeLogRecord({"msg": f"line {number}"}))
    handler.close()
    assert {file.name for file in tmp_path.iterdir()} == {"stack.log", "stack.log.1"}
    assert all(file.stat().st_size <= 1000 and mode(file) == 0o600 for file in tmp_path.iterdir())


def test_brokers_log_rotates_while_it_runs(tmp_path: Path) -> None:
    log = tmp_path / "log" / "nats-server.log"
    log.parent.mkdir()
    files = BrokerFiles(tmp_path / "nats", log, "m", free_port(), "hush", log_limit=4096)
    files.prepare()
    server = subprocess.Popen([find_nats_server(), "-c", files.config_file], umask=0o077)
    try:
        for _ in range(2000):
            if server.poll() is not None or len(list(log.parent.iterdir())) > 1:
                break
            with socket.socket() as client:  # a refused login is a line in its log
                if client.connect_ex(("127.0.0.1", files.port)) == 0:
                    client.sendall(b'CONNECT {"auth_token":"no"}\r\n')
                    while client.recv(4096):
                        pass
    finally:
        server.terminate()
        server.wait()
    found = list(log.parent.iterdir())
    assert len(found) == 2
    assert all(mode(file) == 0o600 for file in found)
