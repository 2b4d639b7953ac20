"""The WebSocket of a migration: everything at once, then what has changed.

Messages to the client are JSON objects:

    {"type": "snapshot", "epoch": …, "sequence": 7, "migration": {…}, "problem": null}
    {"type": "change",   "epoch": …, "sequence": 8, "migration": {…}, "problem": null}

`migration` of a snapshot is the document that GET returns. That of a change has `live`, `as_of` and the
fields that have changed; its `tables` are those that have changed, its `events` are new. `problem` says why
the coordinator does not answer; then the figures are those of `as_of`. A client that reconnects gives `epoch`
and `after`, the sequence number of its last message, and gets a change if that is possible, or else a
snapshot.

The server sends the next message only when the client has taken the one before, except for what fits into the
buffers, and puts together what has changed meanwhile. A client that takes nothing for `Limits.slow_s` is
dropped.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.websockets import WebSocket, WebSocketDisconnect

from clients.web.context import Named, Parts
from clients.web.feeds import Ending, Feed
from clients.web.limits import Limits
from clients.web.problems import Refusal, RefusedError
from clients.web.requests import WatchQuery

router = APIRouter()

TOO_SLOW = Ending(4408, "too slow: no message was read for some time; connect again to resume")
NOT_EXPECTED = Ending(1008, "this server expects no messages")


async def _room(web: Parts) -> None:
    if web.feeds.users >= web.limits.sockets:
        raise RefusedError(
            Refusal.BUSY, f"{web.limits.sockets} clients are connected already", "try again later"
        )


@router.websocket("/api/v1/migrations/{migration_id}/watch", dependencies=[Depends(_room)])
async def watch(
    socket: WebSocket, web: Parts, migration_id: Named, query: Annotated[WatchQuery, Query()]
) -> None:
    await socket.accept()
    async with web.feeds.subscribed(migration_id) as feed:
        after = query.after if query.epoch == feed.epoch and query.after <= feed.sequence else None
        sending = asyncio.create_task(_send(socket, feed, after, web.limits))
        listening = asyncio.create_task(_listen(socket))
        await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
        for task in (sending, listening):
            task.cancel()
        ended = await asyncio.gather(sending, listening, return_exceptions=True)
    for ending in ended:
        if isinstance(ending, Ending):
            await socket.close(ending.code, ending.reason)
            return
        if isinstance(ending, Exception) and not isinstance(ending, WebSocketDisconnect):
            raise ending


async def _send(socket: WebSocket, feed: Feed, sent: int | None, limits: Limits) -> Ending:
    """sent: the number up to which the client has everything; None: it has nothing."""
    while True:
        await feed.beyond(sent or 0)
        if feed.ending is not None and feed.sequence <= (sent or 0):
            return feed.ending
        text, number = feed.message(sent), feed.sequence
        try:
            async with asyncio.timeout(limits.slow_s):
                await socket.send_text(text)
        except TimeoutError:
            return TOO_SLOW
        sent = number


async def _listen(socket: WebSocket) -> Ending | None:
    """Return when the client is gone, or has sent something."""
    try:
        await socket.receive_text()
    except (WebSocketDisconnect, KeyError):
        return None
    return NOT_EXPECTED
