"""Composition of the embedded stack: which programs, with which environment, in which order."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from clients.embedded.broker import ENVIRONMENT, BrokerFiles, find_nats_server
from clients.embedded.child import Program, lifeline
from clients.embedded.forking import ForkServer
from clients.embedded.local_state import MigrationDir
from clients.embedded.lock import only_stack
from clients.embedded.place import socket_place
from clients.embedded.ports import free_port
from clients.embedded.prestart import can_fork, service_module
from clients.embedded.supervisor import Launch, Supervisor
from services.shared.runtime.logfile import PrivateFileHandler

BROKER, COORDINATOR, WORKER = range(3)
"""Tiers. The highest stops first."""

CLONE_WORKERS = ("decoder", "copier")
FOLLOW_WORKERS = ("decoder", "copier", "applier")
"""The workers that a migration needs, without and with --follow."""

MOST_COPIERS = 2
BROKER_GRACE_S = 5.0
SERVICE_GRACE_S = 15.0
"""More than a service's own limits for draining and cancelling (services.shared.runtime)."""

ServiceModule = Callable[[str], str]


def default_copiers() -> int:
    """At most half the cores, because the two database servers may run on this machine, too."""
    return max(1, min(MOST_COPIERS, (os.cpu_count() or 1) // 2))


class Talk(Protocol):
    """How the stack reports to the operator."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...


def module_command(module: str) -> tuple[str, ...]:
    """The module as a program of this installation; -P: never from the current directory."""
    return (sys.executable, "-P", "-m", module.removesuffix(".__main__"))


@dataclass(frozen=True, slots=True)
class StackPlan:
    """What to run for one migration. The URIs (with credentials, "" if not given) are passed only to the
    coordinator, so that it can continue after a restart. workers: none for cleaning up
    without moving data."""

    directory: MigrationDir
    source_uri: str = field(default="", repr=False)
    destination_uri: str = field(default="", repr=False)
    workers: tuple[str, ...] = FOLLOW_WORKERS
    copiers: int = field(default_factory=default_copiers)
    module: ServiceModule = service_module

    @property
    def modules(self) -> list[str]:
        """The services' modules, each once."""
        return list(dict.fromkeys(self.module(role) for role in ("coordinator", *self.workers)))


@asynccontextmanager
async def embedded_stack(plan: StackPlan, talk: Talk) -> AsyncIterator[Stack]:
    """Run the stack for a block, which begins while the programs start.

    Raises PgmigError: ALREADY_EXISTS if one runs for this migration, TOOL_MISSING. A second
    cancellation, while the stack stops, kills the remaining processes.
    """
    directory = plan.directory
    binary = find_nats_server()
    directory.create()
    async with only_stack(directory, talk.note) as lock:
        log_file = directory.log_dir / "stack.log"
        with socket_place(directory) as address, _logged_to(log_file), lifeline(lock) as ties:
            forks = ForkServer(plan.modules, log_file, ties) if can_fork() else None
            supervisor = Supervisor(directory.log_dir, ties, talk.warn, forks)
            try:
                if forks is not None:
                    await forks.warm_up()
                broker = await _start_broker(supervisor, plan, binary)
                yield Stack(plan, supervisor, broker, address)
            except asyncio.CancelledError:
                talk.note("stopping the services; a second Ctrl-C kills them")
                raise
            finally:
                directory.remove_stack()
                try:
                    await supervisor.stop()
                finally:
                    if forks is not None:
                        await forks.close()
                    _put_away(directory)


def _put_away(directory: MigrationDir) -> None:
    """Remove the broker's files if there is no state file, because then no migration exists."""
    if not directory.state_file.exists():
        shutil.rmtree(directory.nats_dir, ignore_errors=True)


async def _start_broker(supervisor: Supervisor, plan: StackPlan, binary: Path) -> BrokerFiles:
    """The broker is not ready yet; `Stack.serving` waits for it."""
    directory = plan.directory
    server_name = f"pgmig_{directory.migration_id}"
    log_file = supervisor.log_file("nats-server")
    files = BrokerFiles(directory.nats_dir, log_file, server_name, free_port(), secrets.token_urlsafe(24))
    files.prepare()
    command = (str(binary), "-c", str(files.config_file))
    program = Program("nats-server", command, {**ENVIRONMENT, **_base_env(plan)}, BROKER_GRACE_S)
    await supervisor.launch(Launch(program, BROKER, lambda child: files.ready(child.pid)))
    return files


class Stack:
    """A stack whose broker is starting, and whose services are being imported."""

    def __init__(self, plan: StackPlan, supervisor: Supervisor, broker: BrokerFiles, address: str) -> None:
        self._plan = plan
        self._address = address
        self._supervisor = supervisor
        self._broker = broker
        self._token = secrets.token_urlsafe(32)

    async def serving(self) -> str:
        """Start the services; return the coordinator's address when it serves there.

        Raises PgmigError(INTERNAL) if a program does not start.
        """
        plan = self._plan
        await self._supervisor.ready()
        address = self._address
        await self._start_coordinator(address)
        plan.directory.write_stack(address)
        # Not earlier, because a worker that finds no coordinator waits before it tries again.
        for role in plan.workers:
            names = [f"copier-{n}" for n in range(1, plan.copiers + 1)] if role == "copier" else [role]
            for name in names:
                env = {"PGMIG_COORDINATOR": address, "PGMIG_WORKER_TOKEN": self._token}
                worker = self._service(name, role, env)
                await self._supervisor.launch(Launch(worker, WORKER))
        await self._supervisor.ready()
        return address

    async def _start_coordinator(self, address: str) -> None:
        port_file = self._plan.directory.path / "coordinator.port"
        port_file.unlink(missing_ok=True)
        uris = {"PGMIG_SOURCE_URI": self._plan.source_uri, "PGMIG_DEST_URI": self._plan.destination_uri}
        env = {
            "PGMIG_LISTEN": address,
            "PGMIG_WORKER_TOKEN": self._token,
            "PGMIG_PORT_FILE": str(port_file),
            "PGMIG_EMBEDDED": "1",
            **{name: uri for name, uri in uris.items() if uri},
        }
        program = self._service("coordinator", "coordinator", env)
        await self._supervisor.launch(Launch(program, COORDINATOR, lambda _child: port_file.exists()))
        await self._supervisor.ready()

    def _service(self, name: str, role: str, own: dict[str, str]) -> Program:
        env = {
            **_base_env(self._plan),
            "PGMIG_NATS_URL": self._broker.url,
            "PGMIG_LOG_FILE": str(self._supervisor.log_file(name)),
            **own,
        }
        module = self._plan.module(role)
        return Program(name, module_command(module), env, SERVICE_GRACE_S, module)


def _base_env(plan: StackPlan) -> dict[str, str]:
    """This process's environment, without variables that would connect a service to another stack."""
    foreign = {
        "PGMIG_SOURCE_URI",
        "PGMIG_DEST_URI",
        "PGMIG_COORDINATOR",
        "PGMIG_LISTEN",
        "PGMIG_PORT_FILE",
        "PGMIG_LOG_FILE",
        "PGMIG_HEALTH_LISTEN",
        "PGMIG_WORKER_ID",
        "PGMIG_WORKER_TOKEN",
        "PGMIG_WORKER_TOKEN_FILE",
        "PGMIG_ID",
        "PGMIG_OUTPUT",
    }
    env = {name: value for name, value in os.environ.items() if name not in foreign}
    return {
        "PGMIG_ALLOWED_PATHS": "/",  # the services run as the user who gave the connection strings
        **env,
        "PGMIG_STATE_DIR": str(plan.directory.scope_dir),
        "PGMIG_EXIT_WITH_PARENT": "1",
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Write the supervisor's log records to `path`, not to the terminal."""
    handler = PrivateFileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("clients.embedded")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.level, logger.propagate = before
        logger.removeHandler(handler)
        handler.close()
