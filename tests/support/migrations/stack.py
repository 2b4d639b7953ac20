"""The suite as real processes for the end-to-end tests: two copiers, and a lost copier's part is given to
another one after 2 s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.servers.nats import NatsServer
from tests.support.services.services import COORDINATOR, Services

__all__ = ["COORDINATOR", "WORKERS", "Stack"]

WORKERS = ("decoder", "applier", "copier-1", "copier-2")


class Stack(Services):
    """settings: environment variables of all the services. Without PGMIG_WORKER_TOKEN among them, workers
    attach without a secret."""

    def __init__(
        self,
        nats: NatsServer,
        folder: Path,
        *,
        workers: Sequence[str] = WORKERS,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        given = {"PGMIG_LEASE_S": "2", **(settings or {})}
        super().__init__(nats, folder, workers=workers, **given)
        if "PGMIG_WORKER_TOKEN" not in given:
            del self._environment["PGMIG_WORKER_TOKEN"]
