"""A run of docker-compose.yml under a name, ports and volumes of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.servers.process import free_port

ROOT = Path(__file__).parents[2]
UP_TIMEOUT_S = 900  # the first build downloads


def engine_problem() -> str:
    """Why there is no Docker engine with compose to use, in one line; "" when there is."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    for command in (["docker", "version"], ["docker", "compose", "version"]):
        tried = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if tried.returncode != 0:
            return f"{' '.join(command)}: {(tried.stderr.strip().splitlines() or ['failed'])[-1]}"
    return ""


class ComposeProject:
    """`with` brings everything up and waits until it is healthy; its end removes it, volumes too.

    If the block raises, the services' logs go to stderr first.
    """

    def __init__(self, name: str, *, copiers: int) -> None:
        self._name = name
        self._copiers = copiers
        self._ports = {
            place: free_port() for place in ("SOURCE_PORT", "DESTINATION_PORT", "COORDINATOR_PORT")
        }

    def __enter__(self) -> Self:
        try:
            self.compose(
                *("up", "--detach", "--build", "--wait", "--wait-timeout", "300"),
                *("--scale", f"copier={self._copiers}"),
                timeout=UP_TIMEOUT_S,
            )
        except BaseException:
            self._leave(failed=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(failed=kind is not None)

    @property
    def source_uri(self) -> str:
        """As this machine reaches it; inside the compose network it is source:5432."""
        return f"postgresql://postgres:pgmig-demo@127.0.0.1:{self._ports['SOURCE_PORT']}/app"

    @property
    def dest_uri(self) -> str:
        return f"postgresql://postgres:pgmig-demo@127.0.0.1:{self._ports['DESTINATION_PORT']}/app"

    @property
    def coordinator(self) -> str:
        return f"127.0.0.1:{self._ports['COORDINATOR_PORT']}"

    def command(self, *arguments: str) -> list[str]:
        file = str(ROOT / "docker-compose.yml")
        return [
            "docker",
            "compose",
            "--ansi=never",
            "--progress=quiet",
            "-p",
            self._name,
            "-f",
            file,
            *arguments,
        ]

    def environment(self) -> dict[str, str]:
        """Without the caller's PGMIG_ variables, which docker-compose.yml would take up."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PGMIG_")}
        return inherited | {place: str(port) for place, port in self._ports.items()}

    def compose(self, *arguments: str, timeout: float = 120) -> str:
        """stdout of `docker compose ARGUMENTS`. Raises CalledProcessError, TimeoutExpired."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment(),
            stdout=subprocess.PIPE,
            text=True,
            timeout=timeout,
            check=True,
        )
        return done.stdout

    def crash(self, service: str) -> None:
        """kill -9 to all that runs in the service's container, which the restart policy heals."""
        # The shell is among the killed, so its exit code says nothing.
        subprocess.run(
            self.command("exec", "-T", service, "sh", "-c", "kill -9 -1"),
            env=self.environment(),
            timeout=60,
            check=False,
        )

    def _leave(self, *, failed: bool) -> None:
        if failed:
            subprocess.run(
                self.command("logs", "--no-color", "--tail=60"),
                env=self.environment(),
                stdout=sys.stderr,
                timeout=60,
                check=False,
            )
        self.compose("--profile=cli", "down", "--volumes", "--remove-orphans")
