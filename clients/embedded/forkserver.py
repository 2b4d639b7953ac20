"""The process that an embedded stack's services are forked from.

It imports once what each of them would import for itself, which is most of what starting a Python
service costs; memory that nobody writes to is shared. `early` begins it as a program, `forking`
exchanges JSON lines with it over the socket that is its standard input:

    to it   {"import": [MODULE...]}                one after the other, as long as nothing else is asked
            an empty line, with file descriptors   see `_Link.take`
            {"name", "module", "env", "log"}       call MODULE.main() in a process of its own
    from it {"name", "pid"}                        it runs
            {"name", "error"}                      it could not be begun
            {"pid", "status"}                      it has ended: exit code, or minus a signal

A fork is safe because nothing has begun here: no thread, no connection, no event loop, and gRPC is
imported but not initialised. A service finds the environment, standard streams, session and death
signal that it would have been executed with. The server ends when the CLI closes the socket.
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
    """Our ends, which a service must not have: the CLI sees in the socket's end that we are gone."""

    def __init__(self) -> None:
        self.socket = socket.socket(fileno=os.dup(_STDIN))
        self.number = self.socket.fileno()
        self.wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._unread = b""
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # not ignored: that wakes nobody
        signal.set_wakeup_fd(self._waker)

    def requests(self) -> list[dict[str, Any]] | None:
        """What has been asked since; None when nothing more will be."""
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
        """The first is what services read as standard input, the second our log. All that we hold
        open, the services do."""
        for ours, theirs in ((lifeline, _STDIN), (log, _STDOUT), (log, _STDERR)):
            os.dup2(ours, theirs)
        os.close(lifeline)
        os.close(log)

    def answer(self, answer: dict[str, Any]) -> None:
        self.socket.sendall(json.dumps(answer).encode() + b"\n")

    def leave_to(self, log_file: str) -> None:
        """Become a service's: nothing of ours is left, and its outputs go to its log."""
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
    gc.disable()  # there is no garbage in what is imported, and it need not be looked through later
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
    """What cannot be imported is the service's own trouble: it tries again, and its log tells why."""
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
    """The service, from here to its end. _exit: what exit handlers there are, are the server's."""
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
