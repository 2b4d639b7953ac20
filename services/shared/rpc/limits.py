"""Limits on what clients of a server can use: connections, calls, bytes and time.

When a request arrives, the peer has not proved its identity, so it must not be able to make us hold much.
gRPC limits connections, streams and the size of one message (`channel`). The other limits are here:

- Only a few requests are read at a time, since a request can take its full size while it is received.
  Requests that wait hold no more than the window of their stream.
- A request that does not arrive in time ends its call. So does a call without a deadline that lasts too long.
- Only a few calls with a large request run at the same time; more are refused.
- The first message on a worker's stream, which arrives before its proof, must be small.

For this, calls with one request are served as streams of requests, which look the same on the wire. For
any other call, gRPC reads the request before our code runs.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from grpc import StatusCode, aio

from services.shared.rpc.channel import SERVER_OPTIONS
from services.shared.rpc.streams import closing

log = logging.getLogger(__name__)

CALLS = 256
"""At the same time, including those of workers and watches; more are refused."""
READERS = 8
READ_S = 10.0
LONGEST_CALL_S = 120.0
"""For calls without a deadline of the client's that do not stream answers."""
SMALL = 64 * 1024
"""Bytes of a request that each call may hold."""
LARGE_CALLS = 2
"""A parsed request can take about twenty times its size."""

Context = aio.ServicerContext[Any, Any]
Parse = Callable[[bytes], Any]


class Limits(aio.ServerInterceptor):
    """One for each server; it must be the first interceptor."""

    def __init__(self) -> None:
        self._reading = asyncio.Semaphore(READERS)
        self._large = 0

    async def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[Any]],
        handler_call_details: Any,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler  # gRPC reports that there is no such method
        parse, serialize = handler.request_deserializer, handler.response_serializer
        if handler.request_streaming:
            if not handler.response_streaming:
                return handler  # we have none
            stream = self._guarded_stream(handler.stream_stream, parse)
            return grpc.stream_stream_rpc_method_handler(stream, None, serialize)
        if handler.response_streaming:
            answers = self._one_request_many_answers(handler.unary_stream, parse)
            return grpc.stream_stream_rpc_method_handler(answers, None, serialize)
        answer = self._one_request_one_answer(handler.unary_unary, parse)
        return grpc.stream_unary_rpc_method_handler(answer, None, serialize)

    def _one_request_one_answer(self, call: Callable[..., Awaitable[Any]], parse: Parse) -> Any:
        async def behavior(_requests: AsyncIterator[bytes], context: Context) -> Any:
            raw: bytes | None = await self._read(context, most=None)
            assert raw is not None
            large = len(raw) > SMALL
            request = None
            self._large += large
            try:
                if large and self._large > LARGE_CALLS:
                    raw = None
                    await _refuse(context, StatusCode.RESOURCE_EXHAUSTED, "too many large requests at a time")
                request, raw = await _parsed(raw, parse, context), None
                async with asyncio.timeout(None if _has_deadline(context) else LONGEST_CALL_S):
                    return await call(request, context)
            except TimeoutError:
                await _refuse(context, StatusCode.DEADLINE_EXCEEDED, "the call took too long")
            except BaseException as exc:
                _forget_locals(exc)
                raise
            finally:
                request = raw = None
                self._large -= large

        return behavior

    def _one_request_many_answers(self, call: Callable[..., Any], parse: Parse) -> Any:
        async def behavior(_requests: AsyncIterator[bytes], context: Context) -> None:
            raw = await self._read(context)
            await _pass_on(call(await _parsed(raw, parse, context), context), context)

        return behavior

    def _guarded_stream(self, call: Callable[..., Any], parse: Parse) -> Any:
        async def behavior(_requests: AsyncIterator[bytes], context: Context) -> None:
            raw = await self._read(context)

            async def all_requests() -> AsyncIterator[Any]:
                yield await _parsed(raw, parse, context)
                while isinstance(more := await context.read(), bytes):
                    yield await _parsed(more, parse, context)

            await _pass_on(call(all_requests(), context), context)

        return behavior

    async def _read(self, context: Context, most: int | None = SMALL) -> bytes:
        """The first request, of at most `most` bytes; b"" if there is none. An empty request also
        returns b""."""
        raw = await self._received(context)
        if most is not None and len(raw) > most:
            raw = b""
            await _refuse(context, StatusCode.RESOURCE_EXHAUSTED, "the first request is too large")
        return raw

    async def _received(self, context: Context) -> bytes:
        """Does not use the iterator of requests, which would hold the last request while it exists."""
        try:
            async with asyncio.timeout(READ_S) as limit:
                async with self._reading:
                    limit.reschedule(asyncio.get_running_loop().time() + READ_S)
                    raw = await context.read()
                    return raw if isinstance(raw, bytes) else b""  # it has ended
        except TimeoutError:
            await _refuse(context, StatusCode.DEADLINE_EXCEEDED, "the request did not arrive in time")


def _forget_locals(exc: BaseException | None) -> None:
    """Clear the local variables in the frames of an exception and of its causes. They refer to the request
    and to each other, and the garbage collector runs rarely."""
    while exc is not None:
        traceback.clear_frames(exc.__traceback__)
        exc = exc.__context__


def _has_deadline(context: Context) -> bool:
    return context.time_remaining() is not None


async def _parsed(raw: bytes, parse: Parse, context: Context) -> Any:
    try:
        return parse(raw)
    except Exception:  # protobuf raises several types
        await _refuse(context, StatusCode.INVALID_ARGUMENT, "the request cannot be read")


async def _pass_on(answers: Any, context: Context) -> None:
    """Write what an asynchronous generator yields. A coroutine writes its answers itself."""
    if not hasattr(answers, "__aiter__"):
        await answers
        return
    async with closing(answers) as open_answers:
        async for answer in open_answers:
            await context.write(answer)


async def _refuse(context: Context, code: StatusCode, why: str) -> NoReturn:
    log.debug("refused a call: %s", why)
    await context.abort(code, why)


def limited_server(*interceptors: Any) -> aio.Server:
    """A server with all limits. Needs a running event loop."""
    return aio.server(
        options=SERVER_OPTIONS,
        interceptors=[Limits(), *interceptors],
        maximum_concurrent_rpcs=CALLS,
    )
