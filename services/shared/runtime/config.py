"""Settings of a service, read from environment variables with the prefix PGMIG_ and from nothing else.

An empty variable is treated as unset. Values that contain credentials are SecretStr, so that they
do not appear in a repr or in an error.
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from platformdirs import user_state_path
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.shared.model import ErrorKind, PgmigError, check_address

ENV_PREFIX = "PGMIG_"
DEFAULT_COORDINATOR = "127.0.0.1:7432"


Address = Annotated[str, AfterValidator(check_address)]
OptionalAddress = Annotated[str, AfterValidator(lambda text: check_address(text) if text else "")]


def _state_dir() -> Path:
    return user_state_path("pgmig")


class ServiceSettings(BaseSettings):
    """Settings of every service and client. Services extend it with their own.

    coordinator: the address that workers and clients connect to. listen: the address that the coordinator
    listens on; port 0 selects a free port. Both can be unix:PATH. log_file: a file of bounded size that
    receives all output instead of stdout and stderr (`logfile`). port_file: the coordinator writes its
    address to this file. state_dir: PGMIG_STATE_DIR, or pgmig in XDG_STATE_HOME. source_uri, dest_uri:
    credentials that the coordinator uses after a restart. health_listen: the address of a worker's
    standard gRPC health service; "" disables it. worker_token, or the content of worker_token_file:
    the secret shared by coordinator and workers; see `worker_token`.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    coordinator: Address = DEFAULT_COORDINATOR
    listen: Address = DEFAULT_COORDINATOR
    nats_url: SecretStr = SecretStr("nats://127.0.0.1:4222")
    state_dir: Annotated[Path, AfterValidator(Path.expanduser)] = Field(default_factory=_state_dir)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    worker_id: str = ""
    worker_token: SecretStr = SecretStr("")
    worker_token_file: Path | None = None
    source_uri: SecretStr | None = None
    dest_uri: SecretStr | None = None
    port_file: Path | None = None
    log_file: Path | None = None
    health_listen: OptionalAddress = ""


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def worker_token(settings: ServiceSettings) -> str:
    """The secret shared by coordinator and workers; "" if none is set.

    Raises PgmigError(INVALID_ARGUMENT) for a file that cannot be read or is empty.
    """
    path = settings.worker_token_file
    if path is None:
        return settings.worker_token.get_secret_value()
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise _no_token(f"cannot read {path}: {reason}") from exc
    if not token:
        raise _no_token(f"{path} is empty")
    return token


def _no_token(why: str) -> PgmigError:
    return PgmigError(
        ErrorKind.INVALID_ARGUMENT,
        f"setting {ENV_PREFIX}WORKER_TOKEN_FILE is not valid: {why}",
        "write one line with a long random text to the file, the same for coordinator and workers",
    )


def new_worker_id(role: str) -> str:
    """An id that no other process has: role, host, process id and a random part."""
    return f"{role}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def load_settings(role: str, kind: type[SettingsT]) -> SettingsT:
    """Settings of the service `role` from the environment.

    Raises PgmigError(INVALID_ARGUMENT) that names the first variable that is not valid.
    """
    try:
        settings = kind()
    except ValidationError as exc:
        # The cause is not chained, because it may quote the value, which may be a secret.
        raise _explain(exc) from None
    if settings.worker_id:
        return settings
    return settings.model_copy(update={"worker_id": new_worker_id(role)})


def _explain(exc: ValidationError) -> PgmigError:
    first = exc.errors(include_input=False, include_url=False, include_context=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    reason = first["msg"].removeprefix("Value error, ")
    return PgmigError(
        ErrorKind.INVALID_ARGUMENT,
        f"setting {ENV_PREFIX}{field.upper()} is not valid: {reason}",
        "correct the environment variable, or unset it for the default",
    )
