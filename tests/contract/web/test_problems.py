"""Errors are problem documents that say what, where and what to do, and never repeat a secret."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from clients.web.problems import MEDIA_TYPE, PROBLEM_SCHEMA
from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.model.errors import POLICIES
from tests.support.web.served import AUTHORIZED, Served

HUSH = "postgresql://a:hush@h/s"


def checked(response: Any, status: int, kind: str) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    found = response.json()
    Draft202012Validator(PROBLEM_SCHEMA).validate(found)
    assert (found["status"], found["kind"]) == (status, kind)
    return found


@pytest.mark.parametrize("kind", list(ErrorKind))
async def test_each_kind_of_error_has_its_status(web: Served, kind: ErrorKind) -> None:
    web.put()
    web.control.errors["pause"] = PgmigError(kind, "what happened", "what to do", Lsn(0x16B374D848))
    response = await web.http.post("/api/v1/migrations/m/pause", headers=AUTHORIZED)
    found = checked(response, POLICIES[kind].http, kind.value)
    assert found["detail"] == "what happened"
    assert found["hint"] == "what to do"
    assert found["lsn"] == "16/B374D848"
    assert found["type"] == f"urn:pgmig:problem:{kind.value.lower().replace('_', '-')}"


def test_statuses_of_this_servers_own_login_are_not_used_for_databases() -> None:
    assert {401, 403, 407}.isdisjoint(policy.http for policy in POLICIES.values())
    assert all(
        policy.http >= 500
        for kind, policy in POLICIES.items()
        if policy.status in {"UNAVAILABLE", "INTERNAL"}
    )


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("switchover", {"timeout_ms": 0}, "timeout_ms"),
        ("switchover", {"timeout_ms": "5"}, "timeout_ms"),
        ("switchover", {"timeout_ms": True}, "timeout_ms"),
        ("switchover", {"max_lag": {"bytes": -1}}, "max_lag.bytes"),
        ("switchover", {"freeze": "all"}, "freeze"),
        ("switchover", {"hold": 1}, "hold"),
        ("switchover", {"hook_timeout_ms": 3_600_001}, "hook_timeout_ms"),
        ("switchover", {"pause_poolers": [7]}, "pause_poolers.0"),
        ("switchover", {"dry_run": True}, "dry_run"),
        ("rollback", {"reverse": True}, "reverse"),
        ("skip-transaction", {"lsn": "x", "reason": "r", "who": "w"}, "lsn"),
        ("skip-transaction", {"lsn": "0/1", "reason": " ", "who": "w"}, "reason"),
        ("skip-transaction", {"lsn": "0/1", "reason": "r"}, "who"),
        ("resync-tables", {"tables": []}, "tables"),
        ("resync-tables", {"tables": ["a"]}, "tables.0"),
        ("cleanup", {"force": "yes"}, "force"),
        ("resume", {"source_uri": [HUSH]}, "source_uri"),
        ("resume", {"source": HUSH}, "source"),
        ("resume", {"skip_objects": ["\ud800"]}, "skip_objects.0"),
        ("resume", {"source_uri": "\ud800hush"}, "source_uri"),
        ("pause", {"now": True}, "now"),
    ],
)
async def test_an_invalid_body_names_the_field_and_has_no_effect(
    web: Served, path: str, body: object, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    web.put()
    content = json.dumps(body)
    response = await web.http.post(
        f"/api/v1/migrations/m/{path}",
        content=content,
        headers={**AUTHORIZED, "Content-Type": "application/json"},
    )
    found = checked(response, 400, "INVALID_ARGUMENT")
    assert (found["errors"][0]["in"], found["errors"][0]["field"]) == ("body", field)
    assert found["errors"][0]["detail"] in found["detail"]
    assert "hush" not in response.text + "".join(capsys.readouterr())
    assert web.control.calls == []


@pytest.mark.parametrize(
    ("path", "place", "field"),
    [
        ("/m/tables?limit=0", "query", "limit"),
        ("/m/tables?sort=colour", "query", "sort"),
        ("/m/tables?page=2", "query", "page"),
        ("/m/events?after=-1", "query", "after"),
        ("/m/readiness?max_lag_seconds=inf", "query", "max_lag_seconds"),
        ("/Not-an-id", "path", "migration_id"),
    ],
)
async def test_an_invalid_query_or_path_names_the_field(
    web: Served, path: str, place: str, field: str
) -> None:
    web.put()
    found = checked(await web.http.get(f"/api/v1/migrations{path}"), 400, "INVALID_ARGUMENT")
    assert [(one["in"], one["field"]) for one in found["errors"]] == [(place, field)]


async def test_a_body_that_is_not_json_is_refused(web: Served) -> None:
    web.put()
    headers = {**AUTHORIZED, "Content-Type": "application/json"}
    response = await web.http.post("/api/v1/migrations/m/pause", content=b'{"a": hush', headers=headers)
    assert "it is not JSON" in checked(response, 400, "INVALID_ARGUMENT")["detail"]
    plain = {**AUTHORIZED, "Content-Type": "text/plain"}
    checked(await web.http.post("/api/v1/migrations/m/pause", content=b"{}", headers=plain), 415, "NOT_JSON")
    assert web.control.calls == []


async def test_unknown_paths_and_methods_are_problems_too(web: Served) -> None:
    checked(await web.http.get("/api/v1/nothing"), 404, "NO_SUCH_ROUTE")
    found = await web.http.put("/api/v1/migrations/m/pause")
    checked(found, 405, "METHOD_NOT_ALLOWED")
    assert found.headers["allow"] == "POST"


async def test_an_unreachable_coordinator_is_named(web: Served) -> None:
    web.put()
    await web.coordinator.stop(0)
    found = checked(await web.http.get("/api/v1/migrations/m"), 503, "UNREACHABLE")
    assert "cannot reach the coordinator" in found["detail"]
    assert found["hint"]


async def test_secrets_in_a_request_reach_neither_an_error_nor_the_log(
    web: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    web.put()
    web.control.errors["resume"] = PgmigError(ErrorKind.AUTHENTICATION, f"{HUSH} is refused")
    body = {"source_uri": HUSH, "destination_uri": HUSH}
    response = await web.http.post("/api/v1/migrations/m/resume", json=body, headers=AUTHORIZED)
    checked(response, 409, "AUTHENTICATION")
    assert ("resume", "m", HUSH, HUSH) in web.control.calls
    assert "hush" not in response.text + "".join(capsys.readouterr())


async def test_a_defect_is_a_problem_and_its_secrets_are_not_logged(
    web: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError(f"with {HUSH}")

    web.put()
    monkeypatch.setattr("clients.session.Session.pause", broken)
    response = await web.http.post("/api/v1/migrations/m/pause", headers=AUTHORIZED)
    assert "RuntimeError" in checked(response, 500, "INTERNAL")["detail"]
    logged = "".join(capsys.readouterr())
    assert "RuntimeError" in logged
    assert "hush" not in response.text + logged
