"""Settings of the coordinator."""

from __future__ import annotations

from dataclasses import dataclass

from services.coordinator.workforce import GRACE_S
from services.shared.runtime.config import ServiceSettings, seconds, setting, whole_number


@dataclass(frozen=True, slots=True)
class CoordinatorSettings(ServiceSettings):
    """worker_grace_s: seconds that a worker whose stream broke keeps its work. state_replicas:
    of the bucket that holds the state; 3 in a NATS cluster."""

    worker_grace_s: float = setting(seconds(0.1), default=GRACE_S)
    state_replicas: int = setting(whole_number(1, 5), default=1)
