"""Each route: which call of the coordinator it makes, and what it answers."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from services.shared.model import (
    DryRunResult,
    DryRunStep,
    DryRunStepName,
    Endpoint,
    ErrorKind,
    Event,
    EventLevel,
    Failure,
    LagLimit,
    Lsn,
    MigrationOptions,
    Operation,
    OperationState,
    Phase,
    Readiness,
    Reason,
    ReasonCode,
    StepState,
    SwitchoverOptions,
    TableId,
    TableProgress,
    TableState,
)
from services.shared.model.view.jsonview import to_json, view_to_json
from tests.fakes.control_service import CONFLICTS, OPERATION
from tests.support.certificates import stored
from tests.support.web.served import AUTHORIZED, Served, served

SOURCE = "postgresql://a:hush@h/s"
DESTINATION = "postgresql://b:hush@h/d"
URIS: dict[str, object] = {"source_uri": SOURCE, "destination_uri": DESTINATION}


def tables(*names: str) -> tuple[TableProgress, ...]:
    states = (TableState.COPIED, TableState.COPYING, TableState.WAITING)
    return tuple(
        TableProgress(TableId("app", name), states[number % 3], bytes_estimated=1000 * number)
        for number, name in enumerate(names)
    )


def events(count: int) -> tuple[Event, ...]:
    return tuple(
        Event(float(number), EventLevel.INFO, f"line {number}", number) for number in range(1, count + 1)
    )


async def test_one_migration_is_the_document_of_the_command_line(web: Served) -> None:
    view = web.put(
        tables=tables("a", "b"), events=events(2), failure=Failure(ErrorKind.GAP, "x", "", Lsn(77))
    )
    found = await web.get("/m")
    assert found.pop("live") is True
    assert found.pop("as_of") > 0
    assert found == json.loads(json.dumps(view_to_json(view)))
    assert found["failure"]["lsn"] == "0/4D"


async def test_the_list_has_every_migration_without_tables_and_events(web: Served) -> None:
    web.put("one", tables=tables("a"), events=events(1))
    web.put("two", Phase.FAILED)
    found = await web.get("")
    assert [(one["migration_id"], one["phase"], one["live"]) for one in found] == [
        ("one", "streaming", True),
        ("two", "failed", True),
    ]
    assert all("tables" not in one and "events" not in one for one in found)


@pytest.mark.parametrize(
    ("query", "names", "total"),
    [
        ("", ["Delta", "alpha", "beta", "gamma"], 4),
        ("?limit=2", ["Delta", "alpha"], 4),
        ("?limit=2&offset=3", ["gamma"], 4),
        ("?sort=size", ["gamma", "Delta", "beta", "alpha"], 4),
        ("?sort=size&descending=true&limit=1", ["alpha"], 4),
        ("?sort=state", ["beta", "Delta", "gamma", "alpha"], 4),
        ("?sort=progress&limit=1&descending=true", ["gamma"], 4),
        ("?search=ELT", ["Delta"], 1),
        ("?search=app.b", ["beta"], 1),
        ("?state=copied", ["alpha", "gamma"], 2),
        ("?search=nothing", [], 0),
    ],
)
async def test_tables_are_searched_sorted_and_paged(
    web: Served, query: str, names: list[str], total: int
) -> None:
    web.put(tables=tables("alpha", "beta", "Delta", "gamma"))
    found = await web.get(f"/m/tables{query}")
    shown = [table["table"]["name"] for table in found["tables"]]
    assert shown == names
    assert found["total"] == total


async def test_events_continue_after_a_number(web: Served) -> None:
    web.put(events=events(5)[2:])
    found = await web.get("/m/events?after=3")
    assert [event["number"] for event in found["events"]] == [4, 5]
    assert (found["first"], found["last"]) == (3, 5)
    assert [event["number"] for event in (await web.get("/m/events?limit=1"))["events"]] == [3]
    assert (await web.get("/m/events?after=5"))["events"] == []


async def test_the_configuration_is_shown(web: Served) -> None:
    web.put(source=Endpoint("old", 5432, "shop", "app"), options=MigrationOptions(follow=True, max_rate=7))
    found = await web.get("/m/configuration")
    assert found["source"]["host"] == "old"
    assert found["options"]["max_rate"] == 7
    assert found["coordinator"].startswith("127.0.0.1:")


async def test_readiness_asks_with_the_limits_that_were_given(web: Served) -> None:
    reasons = (Reason(ReasonCode.LAG, True, "it is behind", "wait"),)
    web.put(readiness=Readiness(False, reasons))
    assert await web.get("/m/readiness?max_lag_bytes=7&max_lag_seconds=1.5") == to_json(
        Readiness(False, reasons)
    )
    assert ("readiness", "m", LagLimit(7, 1.5)) in web.control.calls


async def test_readiness_is_asked_once_for_many_requests(web: Served) -> None:
    """However often it is requested: both servers would be asked each time."""
    web.put()
    await asyncio.gather(*(web.get("/m/readiness") for _ in range(20)))
    asked = [call for call in web.control.calls if call[0] == "readiness"]
    assert len(asked) < 20


async def test_commands_do_not_wait_for_reads(web: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """More reads than a connection to the coordinator has streams, none of which is answered."""
    web.put()
    stuck = asyncio.Event()
    reading = asyncio.Event()

    async def read(operation_id: str) -> Operation:
        reading.set()
        await stuck.wait()
        return OPERATION

    monkeypatch.setattr(web.control, "get_operation", read)
    reads = [asyncio.create_task(web.get(f"/m/operations/{number}", 404)) for number in range(32)]
    await reading.wait()
    async with asyncio.timeout(8):
        await web.post("/m/pause")
    stuck.set()
    await asyncio.gather(*reads)


async def test_operations_are_listed_and_shown(web: Served) -> None:
    web.put()
    requested = await web.post("/m/switchover", {}, 202)
    assert await web.get("/m/operations") == [requested]
    assert await web.get(f"/m/operations/{requested['operation_id']}") == requested


async def test_an_operation_of_another_migration_is_not_found(web: Served) -> None:
    web.put("m")
    web.put("other")
    requested = await web.post("/m/switchover", {"hold": True}, 202)
    path = f"/other/operations/{requested['operation_id']}"
    assert (await web.get(path, 404))["kind"] == "NOT_FOUND"
    for action in ("cancel", "proceed"):
        assert (await web.post(f"{path}/{action}", status=404))["kind"] == "NOT_FOUND"
    assert web.control.operations[requested["operation_id"]].state is OperationState.PREPARING


async def test_the_certificate_is_the_document_of_the_command_line(web: Served) -> None:
    web.put("m1", Phase.SWITCHED_OVER)
    assert (await web.get("/m1/certificate", 404))["kind"] == "NOT_FOUND"
    web.control.certificates = (stored(),)
    found = await web.get("/m1/certificate?operation=8f3a")
    assert found["sha256"] == stored().sha256
    assert found["certificate"] == json.loads(stored().document)


async def test_conflicts_have_row_keys_and_so_need_the_token(web: Served) -> None:
    web.put()
    web.control.conflicts = CONFLICTS
    assert (await web.get("/m/conflicts", 401))["kind"] == "TOKEN_NEEDED"
    assert await web.get("/m/conflicts?limit=7", headers=AUTHORIZED) == to_json(CONFLICTS)
    assert ("list_conflicts", "m", 7) in web.control.calls


async def test_logs_of_services_on_other_hosts_are_not_here(web: Served) -> None:
    web.put()
    assert await web.get("/m/logs", headers=AUTHORIZED) == {"logs": []}
    found = await web.get("/m/logs/coordinator", 404, headers=AUTHORIZED)
    assert "own hosts" in found["hint"]
    assert (await web.get("/m/logs", 401))["kind"] == "TOKEN_NEEDED"


COMMANDS: list[tuple[str, dict[str, object], tuple[object, ...]]] = [
    ("pause", {}, ("pause", "m")),
    ("resume", {}, ("resume", "m", None, None)),
    ("resume", {**URIS, "skip_objects": ["view a.b"]}, ("resume", "m", SOURCE, DESTINATION, "view a.b")),
    (
        "skip-transaction",
        {"lsn": "1/AB", "reason": "bad row", "who": "kim@ops", "source_uri": SOURCE},
        ("skip_transaction", "m", Lsn(0x1000000AB), "bad row", "kim@ops", SOURCE, None),
    ),
    (
        "resync-tables",
        {"tables": ["app.a", '"App"."x.y"'], **URIS},
        ("resync_tables", "m", (TableId("app", "a"), TableId("App", "x.y")), SOURCE, DESTINATION),
    ),
    ("finalize", URIS, ("finalize", "m", SOURCE, DESTINATION)),
    ("unfreeze", {"read_only": True, **URIS}, ("unfreeze", "m", True, SOURCE, DESTINATION)),
    ("abort", URIS, ("abort", "m", SOURCE, DESTINATION)),
]


@pytest.mark.parametrize(("path", "body", "call"), COMMANDS)
async def test_a_command_calls_the_coordinator_and_answers_with_the_view(
    web: Served, path: str, body: dict[str, object], call: tuple[object, ...]
) -> None:
    web.put(phase=Phase.FAILED, resume_phase=Phase.STREAMING)
    found = await web.post(f"/m/{path}", body)
    assert call in web.control.calls
    assert found == json.loads(json.dumps(view_to_json(web.control.views["m"])))


async def test_cleanup_answers_what_was_removed_and_keeps_certificates_first(web: Served) -> None:
    web.put(phase=Phase.SWITCHED_OVER, operation=replace(OPERATION, migration_id="m"))
    done = replace(OPERATION, migration_id="m", state=OperationState.SUCCEEDED)
    web.control.operations[done.operation_id] = done
    web.control.certificates = (stored(),)
    found = await web.post("/m/cleanup", {"force": False, **URIS})
    assert found == {"removed": ["replication slot pgmig_m", "publication pgmig_m"], "left": []}
    kept = list((web.token_file.parent / "state" / "kept-certificates").iterdir())
    assert json.loads(kept[0].read_text())["sha256"] == stored().sha256
    names = [call[0] for call in web.control.calls]
    assert names.index("certificate") < names.index("cleanup")


HOOKS = {"hook_before_freeze": "a", "hook_after_decision": "b", "hook_after_rollback": "c"}


async def test_a_switchover_is_requested_once_for_a_request_id(web: Served) -> None:
    web.put()
    found = await web.post("/m/switchover", {"request_id": "r1"}, 202)
    again = await web.post("/m/switchover", {"request_id": "r1"}, 202)
    assert again["operation_id"] == found["operation_id"]
    assert found["request_id"] == "r1"
    assert web.control.operations[found["operation_id"]].options == SwitchoverOptions()


async def test_a_switchover_has_the_options_of_the_command_line(tmp_path: Path) -> None:
    body = {
        "timeout_ms": 5000,
        "hold": True,
        "max_lag": {"bytes": 1, "seconds": 2.5},
        "freeze": "none",
        "reverse": True,
        "pause_poolers": ["postgresql://p:hush@h/pgbouncer"],
        "hook_timeout_ms": 100,
        **HOOKS,
    }
    async with served(tmp_path, allow_hooks=True) as web:
        web.put()
        found = await web.post("/m/switchover", body, 202)
        assert to_json(web.control.operations[found["operation_id"]].options) == body


@pytest.mark.parametrize("hook", HOOKS)
async def test_hooks_are_refused_unless_the_operator_allows_them(web: Served, hook: str) -> None:
    web.put()
    for path in ("switchover", "rollback", "switchover/dry-run"):
        refused = await web.post(f"/m/{path}", {hook: "touch /tmp/x"}, 403)
        assert refused["kind"] == "HOOKS_NOT_ALLOWED"
    assert web.control.calls == []


async def test_a_held_operation_proceeds_and_is_cancelled(web: Served) -> None:
    web.put()
    requested = await web.post("/m/rollback", {"hold": True}, 202)
    assert "rollback" in [call[0] for call in web.control.calls]
    path = f"/m/operations/{requested['operation_id']}"
    assert (await web.post(f"{path}/proceed", status=202))["proceeded_at"] > 0
    assert (await web.post(f"{path}/cancel", status=202))["state"] == "cancelled"


async def test_a_dry_run_answers_every_step_and_the_result(web: Served) -> None:
    web.put()
    step = DryRunStep(DryRunStepName.TABLES, StepState.DONE, "12 tables", took_ms=3)
    web.control.dry = (step, DryRunResult(Readiness(True), True))
    found = await web.post("/m/switchover/dry-run", {"timeout_ms": 2000})
    assert found == {"steps": [to_json(step)], "result": to_json(web.control.dry[1])}
    assert web.control.calls[-1][:3] == ("dry_run", "m", LagLimit(0, 2.0))


async def test_the_server_says_that_it_runs_and_that_it_reaches_the_coordinator(web: Served) -> None:
    assert (await web.http.get("/healthz")).json() == {"status": "ok"}
    assert (await web.http.get("/readyz")).status_code == 200
    await web.coordinator.stop(0)
    assert (await web.http.get("/healthz")).status_code == 200
    lost = await web.http.get("/readyz")
    assert (lost.status_code, lost.json()["kind"]) == (503, "UNREACHABLE")


async def test_the_start_page_says_where_the_api_is(web: Served) -> None:
    found = await web.http.get("/")
    assert found.headers["content-type"].startswith("text/plain")
    assert "/api/v1/openapi.json" in found.text


async def test_every_answer_has_the_schema_of_the_openapi_document(web: Served) -> None:
    """The requests cover every operation of the document."""
    document = (await web.http.get("/api/v1/openapi.json")).json()
    operations = {
        (method.upper(), path): one
        for path, both in document["paths"].items()
        for method, one in both.items()
    }
    web.put("m1", Phase.FAILED, resume_phase=Phase.STREAMING, tables=tables("a", "b"), events=events(3))
    web.control.conflicts, web.control.certificates = CONFLICTS, (stored(),)
    web.control.dry = (DryRunStep(DryRunStepName.TABLES, StepState.DONE), DryRunResult(Readiness(True), True))
    operation = Operation("8f3a", "m1", "r", options=SwitchoverOptions(hold=True))
    web.control.operations["8f3a"] = operation
    bodies = {
        "skip-transaction": {"lsn": "1/AB", "reason": "r", "who": "w"},
        "resync-tables": {"tables": ["a.b"]},
        "cleanup": {"force": True},
    }
    last = [("POST", "/api/v1/migrations/{migration_id}/cleanup")]
    for method, path in [*(key for key in operations if key not in last), *last]:
        url = path.format(migration_id="m1", operation_id="8f3a", name="coordinator")
        body = bodies.get(path.rsplit("/", 1)[1], {}) if method == "POST" else None
        response = await web.http.request(method, url, json=body, headers=AUTHORIZED)
        answers = operations[method, path]["responses"]
        assert set(answers) - {"default"}, path
        known = answers.get(str(response.status_code), answers["default"])
        assert str(response.status_code) in answers or path.endswith("/logs/{name}"), (path, response.text)
        (content,) = known["content"].values()
        schema = {**content["schema"], "components": document["components"]}
        Draft202012Validator(schema).validate(response.json())
