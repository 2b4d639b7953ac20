"""The process from which the services of an embedded stack are forked.

It imports once what every service would import. Importing is most of the cost of starting a Python
service, and memory that nobody writes to is shared. `prestart` starts it as a program. `forking`
exchanges JSON lines with it over the socket that is its standard input:

    to it   {"import": [MODULE...]}                imported one by one, while there is no other request
            an empty line, with file descriptors   see `_Link.take`
            {"name", "module", "env", "log"}       call MODULE.main() in its own process
    from it {"name", "pid"}                        it runs
            {"name", "error"}                      it could not be started
            {"pid", "status"}                      it has ended: exit code, or minus a signal

A fork is safe because nothing has started here: no thread, no connection, no event loop, and gRPC is
imported but not initialized. A service gets the same environment, standard streams, session and death
signal as if it had been executed. The server ends when the CLI closes the socket.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn

from clients.embedded.logfile import open_log
from clients.embedded.shim import end_with_parent
from clients.embedded.title import show_as
from services.shared.runtime.diagnostics import end_process, exit_code, report

_STDIN, _STDOUT, _STDERR = range(3)
_READ_BYTES = 1 << 16
_MOST_FILES = 8


class _Link:
    """The server's file descriptors. A service must not have them: the CLI sees the end of the server
    when the socket is closed."""

    def __init__(self) -> None:
        self.socket = socket.socket(fileno=os.dup(_STDIN))
        self.number = self.socket.fileno()
        self.wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._unread = b""
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # an ignored signal would wake nothing
        signal.set_wakeup_fd(self._waker)

    def requests(self) -> list[dict[str, Any]] | None:
        """The requests since the last call; None if there will be no more."""
        try:
            received, files, _, _ = socket.recv_fds(self.socket, _READ_BYTES, _MOST_FILES)
        except ConnectionError:
            return None
        if not received:
            return None
        if files:
            self.take(*files)
        *lines, self._unread = (self._unread + received).split(b"\n")
        return [json.loads(line) for line in lines if line]

    def take(self, lifeline: int, log: int, *_kept: int) -> None:
        """The first is the services' standard input, the second our log. Services inherit all files that we
        hold open."""
        for ours, theirs in ((lifeline, _STDIN), (log, _STDOUT), (log, _STDERR)):
            os.dup2(ours, theirs)
        os.close(lifeline)
        os.close(log)

    def answer(self, answer: dict[str, Any]) -> None:
        self.socket.sendall(json.dumps(answer).encode() + b"\n")

    def leave_to(self, log_file: str) -> None:
        """Prepare for a service: close everything of ours, and connect the outputs to the service's log."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.socket.close()
        os.close(self.wake)
        os.close(self._waker)
        log = open_log(log_file)
        os.dup2(log, _STDOUT)
        os.dup2(log, _STDERR)
        os.close(log)


def main() -> None:
    link = _Link()
    modules: list[str] = []
    gc.disable()  # imports produce no garbage, and their objects need no later scan
    while True:
        readable, _, _ = select.select([link.number, link.wake], [], [], 0 if modules else None)
        if link.wake in readable:
            os.read(link.wake, _READ_BYTES)
            _tell_of_the_ended(link)
        if link.number in readable:
            requests = link.requests()
            if requests is None:
                return
            for request in requests:
                modules += request.get("import", [])
                if "module" in request:
                    _fork(request, link)
        elif modules:
            _preload(modules.pop(0))


def _preload(module: str) -> None:
    """If a module cannot be imported, the service tries again, and its log shows why."""
    with contextlib.suppress(Exception):
        importlib.import_module(module)
    gc.freeze()


def _fork(request: dict[str, Any], link: _Link) -> None:
    _preload(request["module"])
    server = os.getpid()
    try:
        pid = os.fork()
    except OSError as exc:
        link.answer({"name": request["name"], "error": exc.strerror or str(exc)})
        return
    if pid == 0:
        _become(request, link, server)
    link.answer({"name": request["name"], "pid": pid})


def _tell_of_the_ended(link: _Link) -> None:
    with contextlib.suppress(ChildProcessError):  # there are none
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            link.answer({"pid": ended[0], "status": os.waitstatus_to_exitcode(ended[1])})


def _become(request: dict[str, Any], link: _Link, server: int) -> NoReturn:
    """Run the service from here to its end. Uses _exit, because all exit handlers are the server's."""
    code = 1
    try:
        gc.enable()
        os.setsid()
        link.leave_to(request["log"])
        end_with_parent(server, signal.SIGTERM)
        show_as([sys.executable, "-P", "-m", request["module"].removesuffix(".__main__")])
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv = [request["module"]]
        importlib.import_module(request["module"]).main()
        code = 0
    except SystemExit as exc:
        code = exit_code(exc)
    except BaseException:
        report(traceback.format_exc())
    finally:
        end_process(code)


if __name__ == "__main__":
    main()
