"""The process that an embedded stack's services are forked from.

It imports once what each of them would import for itself, which is most of what starting a Python
service costs; memory that nobody writes to is shared. Run as a program by `forking`, with which it
exchanges JSON lines. Its arguments name the file descriptor that the services read as standard input.

    stdin   {"import": [MODULE...]}                       first, once; the one asked for is imported first
            {"name", "module", "env", "log"}              call MODULE.main() in a process of its own
    stdout  {"name", "pid"}                               it runs
            {"pid", "status"}                             it has ended: exit code, or minus a signal

A fork is safe because nothing has begun here: no thread, no connection, no event loop, and gRPC is
imported but not initialised. A service finds the environment, standard streams, session and death
signal that it would have been executed with. The server ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
import traceback
from typing import Any, NoReturn

from clients.cli.embedded.logfile import open_log
from clients.cli.embedded.shim import end_with_parent
from clients.cli.embedded.title import show_as

_STDIN, _STDOUT, _STDERR = range(3)
_READ_BYTES = 1 << 16


class _Pipes:
    """Our ends, which a service must not have: the CLI sees in the answers' end that we are gone."""

    def __init__(self) -> None:
        self.lifeline = int(sys.argv[1])
        self.answers = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)  # whatever an import may print is no answer
        self.wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # not ignored: that wakes nobody
        signal.set_wakeup_fd(self._waker)

    def answer(self, answer: dict[str, Any]) -> None:
        os.write(self.answers, json.dumps(answer).encode() + b"\n")

    def hand_over(self, log_file: str) -> None:
        """Become a service's: standard streams and nothing of ours."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = open_log(log_file)
        for ours, theirs in ((self.lifeline, _STDIN), (log, _STDOUT), (log, _STDERR)):
            os.dup2(ours, theirs)
        for ours in (self.lifeline, log, self.answers, self.wake, self._waker):
            os.close(ours)


def main() -> None:
    pipes, unread = _Pipes(), b""
    modules: list[str] = []
    gc.disable()  # there is no garbage in what is imported, and it need not be looked through later
    while True:
        readable, _, _ = select.select([_STDIN, pipes.wake], [], [], 0 if modules else None)
        if pipes.wake in readable:
            os.read(pipes.wake, _READ_BYTES)
            _tell_of_the_ended(pipes)
        if _STDIN in readable:
            received = os.read(_STDIN, _READ_BYTES)
            if not received:
                return
            *lines, unread = (unread + received).split(b"\n")
            for line in lines:
                _obey(json.loads(line), pipes, modules)
        elif modules:
            importlib.import_module(modules.pop(0))
            gc.freeze()


def _obey(request: dict[str, Any], pipes: _Pipes, modules: list[str]) -> None:
    if "import" in request:
        modules += request["import"]
        return
    importlib.import_module(request["module"])
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(request, pipes, server)
    pipes.answer({"name": request["name"], "pid": pid})


def _tell_of_the_ended(pipes: _Pipes) -> None:
    with contextlib.suppress(ChildProcessError):  # there are none
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            pipes.answer({"pid": ended[0], "status": os.waitstatus_to_exitcode(ended[1])})


def _become(request: dict[str, Any], pipes: _Pipes, server: int) -> NoReturn:
    """The service, from here to its end. _exit: what exit handlers there are, are the server's."""
    code = 1
    try:
        gc.enable()
        os.setsid()
        pipes.hand_over(request["log"])
        end_with_parent(server, signal.SIGTERM)
        show_as([sys.executable, "-P", "-m", request["module"].removesuffix(".__main__")])
        os.environ.clear()
        os.environ.update(request["env"])
        importlib.import_module(request["module"]).main()
        code = 0
    except SystemExit as exc:
        code = _exit_code(exc)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _exit_code(exc: SystemExit) -> int:
    """By the rules of sys.exit()."""
    if exc.code is None or isinstance(exc.code, int):
        return exc.code or 0
    sys.stderr.write(f"{exc.code}\n")
    return 1


if __name__ == "__main__":
    main()
