"""Serving on a Unix socket: private places alone, and never in place of a server that lives."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clients.session import Session
from services.shared.model import ErrorKind, PgmigError, check_address, socket_path
from services.shared.rpc.server import ControlServer
from tests.fakes.control_service import FakeControl, NoWorkers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    return folder


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[str]:
    server = ControlServer(f"unix:{path}", FakeControl(), NoWorkers())
    address = await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


async def refusal(path: Path) -> str:
    with pytest.raises(PgmigError) as caught:
        async with serving(path):
            pass
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
    assert "PGMIG_LISTEN" in caught.value.hint
    return caught.value.message


async def test_clients_reach_a_coordinator_by_its_socket(folder: Path) -> None:
    async with serving(folder / "c.sock") as address, Session(address) as session:
        assert address == f"unix:{folder}/c.sock"
        await session.list_all()


async def test_a_server_that_lives_keeps_its_socket(folder: Path) -> None:
    path = folder / "c.sock"
    async with serving(path) as address:
        assert "cannot listen" in await refusal(path)
        async with Session(address) as session:
            await session.list_all()


async def test_the_socket_of_a_dead_server_is_taken_over(folder: Path) -> None:
    path = folder / "c.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(path) as address, Session(address) as session:
        await session.list_all()


async def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    assert "this user only" in await refusal(tmp_path / "open" / "c.sock")
    assert "directory" in await refusal(folder / "absent" / "c.sock")


async def test_a_file_that_is_no_socket_stays(folder: Path) -> None:
    path = folder / "c.sock"
    path.write_text("precious")
    assert "no socket" in await refusal(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("text", ["unix:", "unix:relative", "unix:/a b", "unix:/%2f", "unix:/" + "x" * 103])
def test_a_path_that_no_socket_can_have_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="path of a socket"):
        check_address(text)


def test_addresses_have_two_forms() -> None:
    assert socket_path(check_address("unix:/run/pgmig/c.sock")) == Path("/run/pgmig/c.sock")
    assert socket_path(check_address("[::1]:7432")) is None
