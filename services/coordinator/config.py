"""Settings of the coordinator."""

from __future__ import annotations

from pydantic import Field

from services.coordinator.workers.registry import GRACE_S
from services.shared.runtime.config import ServiceSettings


class CoordinatorSettings(ServiceSettings):
    """worker_grace_s: for how many seconds a worker keeps its work after its stream broke. state_replicas:
    number of replicas of the bucket that stores the state; 3 in a NATS cluster. embedded: set by the embedded
    stack, which has one migration, one decoder and one applier; source_uri and dest_uri are what the operator
    gave for this migration. failpoints: for tests only, see services.shared.runtime.failpoints."""

    worker_grace_s: float = Field(default=GRACE_S, ge=0.1)
    state_replicas: int = Field(default=1, ge=1, le=5)
    embedded: bool = False
    failpoints: str = ""
