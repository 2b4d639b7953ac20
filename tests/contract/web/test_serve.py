"""`pgmig-cli serve`: where it listens, what it prints, how it ends, and migrations that nothing runs."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from services.shared.model import Endpoint, Event, EventLevel, MigrationView, Phase
from services.shared.model.view.jsonview import view_to_json
from tests.support.clients.commands import pgmig
from tests.support.environment import clean_environment
from tests.support.web.program import Started, serve_program


@contextmanager
def serving(state_dir: Path, *arguments: str, **environment: str) -> Iterator[Started]:
    variables = clean_environment(PGMIG_STATE_DIR=str(state_dir), **environment)
    with serve_program(variables, *arguments) as started:
        yield started


def recorded(state_dir: Path, view: MigrationView) -> None:
    folder = state_dir / view.migration_id
    (folder / "log").mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"view": view_to_json(view)}))
    (folder / "log" / "coordinator.log").write_text("2026-01-01T00:00:00.000Z INFO    coordinator: begun\n")


VIEW = MigrationView(
    "shop",
    Phase.STREAMING,
    source=Endpoint("old", 5432, "shop", "app"),
    events=(Event(1.0, EventLevel.INFO, "begun", 1),),
)


def test_it_serves_what_is_recorded_when_nothing_runs(tmp_path: Path) -> None:
    recorded(tmp_path, VIEW)
    with serving(tmp_path) as (process, said):
        token = (tmp_path / "web-token").read_text().strip()
        assert (tmp_path / "web-token").stat().st_mode & 0o777 == 0o600
        assert str(tmp_path / "web-token") in said["token"]
        with httpx.Client(
            base_url=said["url"], trust_env=False, headers={"Authorization": f"Bearer {token}"}
        ) as http:
            (listed,) = http.get("/api/v1/migrations").json()
            assert (listed["migration_id"], listed["live"]) == ("shop", False)
            assert listed["as_of"] == pytest.approx((tmp_path / "shop" / "state.json").stat().st_mtime)
            assert http.get("/api/v1/migrations/shop").json()["source"]["host"] == "old"
            assert http.get("/api/v1/migrations/shop/events").json()["last"] == 1
            assert http.get("/api/v1/migrations/shop/logs").json()["logs"][0]["name"] == "coordinator"
            assert "begun" in http.get("/api/v1/migrations/shop/logs/coordinator").json()["lines"][0]
            assert http.get("/api/v1/migrations/other").status_code == 404
            refused = http.post("/api/v1/migrations/shop/pause")
            assert (refused.status_code, refused.json()["kind"]) == (503, "UNREACHABLE")
            assert "pgmig-cli follow --id shop" in refused.json()["hint"]
            assert http.get("/readyz").status_code == 200
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
        assert token not in out + err + json.dumps(said)


def test_a_second_start_uses_the_same_token(tmp_path: Path) -> None:
    with serving(tmp_path):
        first = (tmp_path / "web-token").read_text()
    with serving(tmp_path):
        assert (tmp_path / "web-token").read_text() == first


def test_a_port_that_is_taken_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        result = pgmig("serve", "--listen", address, "--state-dir", str(tmp_path))
    assert result.exit_code == 2
    assert f"cannot listen on {address}: Address already in use" in result.stderr
    assert "--listen" in result.stderr


@pytest.mark.parametrize("address", ["7654", "localhost", "unix:/tmp/x", "host:99999"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, address: str) -> None:
    result = pgmig("serve", "--listen", address, "--state-dir", str(tmp_path))
    assert result.exit_code == 2
    assert repr(address) in result.stderr


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    result = pgmig("serve", "--token-file", str(missing), "--state-dir", str(tmp_path))
    assert result.exit_code == 2
    assert str(missing) in result.stderr


def test_listening_beyond_this_machine_is_warned_about(tmp_path: Path) -> None:
    with serving(tmp_path, "--listen", "0.0.0.0:0") as (process, _):
        process.send_signal(signal.SIGINT)
        assert "can be reached from other machines" in process.communicate(timeout=60)[1]
        assert process.returncode == 130


def test_the_environment_gives_the_token(tmp_path: Path) -> None:
    token = "the-token-of-the-environment"
    with serving(tmp_path, PGMIG_WEB_TOKEN=token) as (_, said):
        assert said["token"] == "the one in PGMIG_WEB_TOKEN"
        assert not (tmp_path / "web-token").exists()
        answer = httpx.post(
            f"{said['url']}/api/v1/migrations/shop/pause",
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
        )
        assert answer.status_code == 404
