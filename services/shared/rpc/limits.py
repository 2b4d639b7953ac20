"""What a server takes from whoever reaches its port: bounded connections, calls, bytes and time.

Nobody has proved who he is when a request arrives, so what he can make us hold has to be small.
gRPC bounds connections, streams and the size of one message (`channel`). The rest is here:

- Requests are read a few at a time, since one that is being received may take its full size. Those that
  wait their turn hold no more than the window of their stream.
- A request that does not arrive in time ends its call. So does a call without a deadline that lasts too long.
- Few calls with a large request run at the same time; more are refused.
- What comes first on a worker's stream, before it has proved who it is, has to be small.

To do this, calls with one request are served as streams of requests, which look the same on the wire: gRPC
reads the request of any other call by itself, before we hear of it.
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
"""At the same time, those of workers and watches among them; more are refused."""
READERS = 8
READ_S = 10.0
LONGEST_CALL_S = 120.0
"""Without a deadline of the client's, and not for streams of answers."""
SMALL = 64 * 1024
"""Bytes of a request that may be held by each call."""
LARGE_CALLS = 2
"""A request may take some twenty times its size when it is parsed."""

Context = aio.ServicerContext[Any, Any]
Parse = Callable[[bytes], Any]


class Limits(aio.ServerInterceptor):
    """One for each server; outside all other interceptors."""

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
            return handler  # gRPC says that there is no such method
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
        """The first request, of no more than `most` bytes; b"" when there is none, which is how an empty
        one looks, too."""
        raw = await self._received(context)
        if most is not None and len(raw) > most:
            raw = b""
            await _refuse(context, StatusCode.RESOURCE_EXHAUSTED, "the first request is too large")
        return raw

    async def _received(self, context: Context) -> bytes:
        """Not by the iterator of requests, which would keep the last one for as long as it lives."""
        try:
            async with asyncio.timeout(READ_S) as limit:
                async with self._reading:
                    limit.reschedule(asyncio.get_running_loop().time() + READ_S)
                    raw = await context.read()
                    return raw if isinstance(raw, bytes) else b""  # it has ended
        except TimeoutError:
            await _refuse(context, StatusCode.DEADLINE_EXCEEDED, "the request did not arrive in time")


def _forget_locals(exc: BaseException | None) -> None:
    """Let the frames that an exception has come through, and those that its causes have, keep nothing. They
    refer to the request and to each other, and the collector comes by seldom."""
    while exc is not None:
        traceback.clear_frames(exc.__traceback__)
        exc = exc.__context__


def _has_deadline(context: Context) -> bool:
    return context.time_remaining() is not None


async def _parsed(raw: bytes, parse: Parse, context: Context) -> Any:
    try:
        return parse(raw)
    except Exception:  # of protobuf's, which has several
        await _refuse(context, StatusCode.INVALID_ARGUMENT, "the request cannot be read")


async def _pass_on(answers: Any, context: Context) -> None:
    """What an asynchronous generator yields, or a coroutine writes by itself."""
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
