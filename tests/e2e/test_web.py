"""A migration from its copy to its cleanup, looked at and switched over through the web server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from websockets.sync.client import ClientConnection, connect

from services.shared.model import ExitCode, Phase
from tests.support.migrations.cli import Cli
from tests.support.switchover.both_sides import DDL, Application, missing, writable
from tests.support.web.program import serve_program

WAIT_S = 120.0

pytestmark = pytest.mark.timeout(300)


def until(
    watching: ClientConnection, document: dict[str, Any], done: Callable[[dict[str, Any]], bool]
) -> None:
    """Merge the changes into the document until it is as wanted. The coordinator ends with the switchover, so
    the last state may come with the problem that it is gone."""
    while not done(document):
        document.update(json.loads(watching.recv(WAIT_S))["migration"])


def succeeded(document: dict[str, Any]) -> bool:
    operation = document["operation"] or {}
    assert operation.get("failure") is None
    return operation.get("state") == "succeeded"


def test_a_migration_is_watched_and_switched_over_through_the_web(
    source_db: str, dest_db: str, tmp_path: Path
) -> None:
    with psycopg.connect(source_db) as conn:
        conn.execute(DDL)
    state_dir = tmp_path / "state"
    cli = Cli.on(source_db, dest_db, state_dir, PGMIG_WORKER_GRACE_S="0.5")
    with (
        serve_program(cli.environment) as (_, said),
        cli.start("clone", "--follow", "--id", "shop", log=tmp_path / "clone.log") as clone,
        Application(source_db, dest_db) as application,
    ):
        clone.until(lambda view: view.phase is Phase.STREAMING, WAIT_S)
        token = (state_dir / "web-token").read_text().strip()
        path = "/api/v1/migrations/shop"
        watch = f"{said['url'].replace('http', 'ws')}{path}/watch"
        with (
            httpx.Client(base_url=said["url"], trust_env=False, timeout=60) as http,
            connect(watch, proxy=None) as watching,
        ):
            first = json.loads(watching.recv(WAIT_S))
            assert first["type"] == "snapshot"
            document = first["migration"]
            application.wait_for_more(20)
            until(watching, document, lambda one: one["rates"]["transactions_applied"] > 0)
            assert {one["role"] for one in document["workers"]} >= {"decoder", "applier"}

            listed = {one["table"]["name"] for one in http.get(f"{path}/tables").json()["tables"]}
            assert "item" in listed
            events = http.get(f"{path}/events").json()
            assert [one["number"] for one in events["events"]] == list(range(1, events["last"] + 1))
            given = http.get(f"{path}/configuration").json()
            assert given["options"]["follow"] is True
            operator = {"Authorization": f"Bearer {token}"}
            logs = http.get(f"{path}/logs", headers=operator).json()["logs"]
            assert {"coordinator", "decoder", "applier"} <= {one["name"] for one in logs}

            assert http.post(f"{path}/switchover", json={}).status_code == 401
            assert writable(source_db)
            requested = http.post(f"{path}/switchover", json={"timeout_ms": 60_000}, headers=operator)
            assert requested.status_code == 202, requested.text
            until(watching, document, succeeded)
            assert document["switchover"]["write_downtime_ms"] >= 0
        assert clone.wait() == ExitCode.OK
        assert (writable(source_db), writable(dest_db)) == (False, True)
        with httpx.Client(base_url=said["url"], trust_env=False) as http:  # nothing runs any more
            shown = http.get(path).json()
            assert (shown["phase"], shown["live"]) == ("switched-over", False)
            certificate = http.get(f"{path}/certificate").json()
            assert certificate["sha256"] == shown["switchover"]["certificate_sha256"]
            refused = http.post(f"{path}/cleanup", json={}, headers=operator)
            assert (refused.status_code, refused.json()["kind"]) == (503, "UNREACHABLE")
    assert missing(dest_db, application.acknowledged) == set()
