"""The state of a stream, read by JetStream's raw API."""

from __future__ import annotations

import json
from typing import Any

from nats.aio.client import Client
from nats.js import errors as js_errors

ANSWER_TIMEOUT_S = 10.0


async def stream_state(client: Client, stream: str) -> tuple[str, int, int]:
    """(creation time, first sequence, last sequence). Uses the raw API, since nats-py omits `created`."""
    return state_in(await stream_info(client, stream))


def state_in(info: dict[str, Any]) -> tuple[str, int, int]:
    """`stream_state` of this answer."""
    return info["created"], info["state"]["first_seq"], info["state"]["last_seq"]


def timeline_of(subjects: list[str]) -> int:
    """The timeline that the subjects of a change stream name. 0 if they name none."""
    last = subjects[0].rpartition(".")[2] if subjects else ""
    return int(last) if last.isdecimal() else 0


async def stream_info(client: Client, stream: str) -> dict[str, Any]:
    return await ask(client, f"STREAM.INFO.{stream}")


async def ask(client: Client, subject: str, body: object = None) -> dict[str, Any]:
    """One request to the JetStream API."""
    data = b"" if body is None else json.dumps(body).encode()
    reply = await client.request(f"$JS.API.{subject}", data, timeout=ANSWER_TIMEOUT_S)
    info: dict[str, Any] = json.loads(reply.data)
    if "error" in info:
        raise js_errors.APIError(**info["error"])
    return info
