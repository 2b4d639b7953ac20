"""What an answer does not show: passwords to anybody, and commands of hooks and their output without the
token."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from services.shared.model import (
    Endpoint,
    ErrorKind,
    Event,
    EventLevel,
    Failure,
    MigrationOptions,
    Operation,
    Parameter,
    Phase,
    StepName,
    StepState,
    SwitchoverOptions,
    SwitchoverResult,
    SwitchoverStep,
)
from services.shared.model.lsn import Lsn
from tests.support.web.served import AUTHORIZED, Headers, Served

COMMAND = "route secretly postgresql://a:hush@h/s"
OUTPUT = "secretly printed"
WHY = f"it ended with exit code 3: {OUTPUT}"
PARAMETERS = (Parameter("options", "password=hush"), Parameter("sslpassword", "hush"))


def put(web: Served) -> None:
    failure = Failure(ErrorKind.SWITCHOVER_FAILED, f"hook before-freeze failed: {WHY}", "again")
    result = SwitchoverResult(Lsn(1), 1, 1, 1.0, warnings=(f"hook after-decision failed: {WHY}",))
    operation = Operation(
        "8f3a",
        "m",
        "r",
        options=SwitchoverOptions(hook_after_decision=COMMAND),
        steps=(SwitchoverStep(StepName.HOOK_BEFORE_FREEZE, StepState.FAILED, WHY),),
        result=result,
        failure=failure,
    )
    texts = (
        "hook before-freeze is run: route secretly",
        f"hook before-freeze: {OUTPUT}",
        "the command 'secretly' of a hook cannot be used: it is empty",
    )
    web.put(
        phase=Phase.FAILED,
        operation=operation,
        failure=failure,
        switchover=result,
        options=MigrationOptions(follow=True),
        events=tuple(Event(1.0, EventLevel.INFO, text, n) for n, text in enumerate(texts, 1)),
        source=Endpoint("old", 5432, "shop", "app", parameters=PARAMETERS),
        destination=Endpoint("new", 5432, "shop", "app", parameters=PARAMETERS),
    )
    web.control.operations["8f3a"] = replace(operation)


async def answers(web: Served, headers: Headers) -> dict[str, str]:
    """Every GET below a migration, and the list, by path."""
    document: dict[str, Any] = (await web.http.get("/api/v1/openapi.json")).json()
    found = {}
    for path, methods in document["paths"].items():
        if "get" in methods:
            url = path.format(migration_id="m", operation_id="8f3a", name="coordinator")
            found[path] = (await web.http.get(url, headers=headers)).text
    return found


@pytest.mark.parametrize("headers", [{}, AUTHORIZED, {"Authorization": "Bearer another"}])
async def test_no_answer_shows_passwords(web: Served, headers: Headers) -> None:
    put(web)
    found = await answers(web, headers)
    assert len(found) > 10
    assert [path for path, text in found.items() if "hush" in text] == []
    assert "hush" not in json.dumps(await web.post("/m/pause"))
    async with web.watch(additional_headers=headers) as watching:
        assert "hush" not in str(await watching.recv())


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer another"}])
async def test_commands_of_hooks_are_not_shown_without_the_token(web: Served, headers: Headers) -> None:
    put(web)
    found = await answers(web, headers)
    assert [path for path, text in found.items() if "secretly" in text] == []
    async with web.watch(additional_headers=headers) as watching:
        assert "secretly" not in str(await watching.recv())
    shown = await web.get("/m", headers=headers)
    options = shown["operation"]["options"]
    assert (options["hook_after_decision"], options["hook_before_freeze"]) == ("***", "")
    assert shown["failure"]["message"] == "hook before-freeze failed: ***"
    assert [event["text"] for event in shown["events"]] == [
        "hook before-freeze is run: ***",
        "hook before-freeze: ***",
        "the command *** of a hook cannot be used: it is empty",
    ]


async def test_the_operator_sees_commands_of_hooks(web: Served) -> None:
    put(web)
    for path in ("", "/m", "/m/events", "/m/operations", "/m/operations/8f3a"):
        assert "secretly" in json.dumps(await web.get(path, headers=AUTHORIZED))
    operation = await web.get("/m/operations/8f3a", headers=AUTHORIZED)
    assert operation["options"]["hook_after_decision"] == "route secretly postgresql://a:***@h/s"
