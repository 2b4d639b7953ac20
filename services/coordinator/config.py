"""Settings of the coordinator."""

from __future__ import annotations

from pydantic import Field

from services.coordinator.workers.registry import GRACE_S
from services.shared.runtime.config import ServiceSettings


class CoordinatorSettings(ServiceSettings):
    """worker_grace_s: seconds that a worker whose stream broke keeps its work. state_replicas:
    of the bucket that holds the state; 3 in a NATS cluster. embedded: set by the embedded stack. It has
    one migration, one decoder and one applier; source_uri and dest_uri are what the operator gave for it."""

    worker_grace_s: float = Field(default=GRACE_S, ge=0.1)
    state_replicas: int = Field(default=1, ge=1, le=5)
    embedded: bool = False
