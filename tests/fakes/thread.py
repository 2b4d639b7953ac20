"""A stand-in for the coordinator in its own thread, for commands that run an event loop themselves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from services.shared.rpc.server import ControlServer
from tests.fakes.control import NoWorkers, StandInControl

T = TypeVar("T")


class ServedControl:
    """address: HOST:PORT. `do` calls a function on the server's own thread, `await_there` awaits there."""

    def __init__(self, control: StandInControl, address: str) -> None:
        self.control = control
        self.address = address
        self.stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def do(self, action: Callable[[], T]) -> T:
        done: Future[T] = Future()

        def act() -> None:
            try:
                done.set_result(action())
            except BaseException as exc:
                done.set_exception(exc)

        self._loop.call_soon_threadsafe(act)
        return done.result(10)

    def await_there(self, action: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(10)


@contextmanager
def served_control() -> Iterator[ServedControl]:
    ready: Future[ServedControl] = Future()

    async def serve() -> None:
        control = StandInControl()
        server = ControlServer("127.0.0.1:0", control, NoWorkers())
        served = ServedControl(control, await server.start())
        ready.set_result(served)
        await served.stopping.wait()
        await server.stop(0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="stand-in")
    thread.start()
    served = ready.result(10)
    try:
        yield served
    finally:
        served.do(served.stopping.set)
        thread.join(10)
