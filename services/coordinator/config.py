"""Settings of the coordinator."""

from __future__ import annotations

from pydantic import Field, SecretStr

from services.coordinator.pipeline.hook_settings import HookSettings
from services.coordinator.workers.registry import GRACE_S
from services.shared.model import HookName, socket_path
from services.shared.runtime.config import ServiceSettings


class CoordinatorSettings(ServiceSettings):
    """worker_grace_s: for how many seconds a worker keeps its work after its stream broke. state_replicas:
    number of replicas of the bucket that stores the state; 3 in a NATS cluster. embedded: set by the embedded
    stack, which has one migration, one decoder and one applier; source_uri and dest_uri are what the operator
    gave for this migration. failpoints: for tests only, see services.shared.runtime.failpoints.

    hook_before_freeze, hook_after_decision, hook_after_rollback: commands for switchovers that bring none.
    allow_hooks: clients may give commands. The embedded coordinator allows it, because its socket can be
    reached only by the user that it runs as. pooler_uri: connection strings of PgBouncer's admin consoles,
    separated by white space; after a restart the coordinator has passwords from there."""

    worker_grace_s: float = Field(default=GRACE_S, ge=0.1)
    state_replicas: int = Field(default=1, ge=1, le=5)
    embedded: bool = False
    failpoints: str = ""
    hook_before_freeze: str = ""
    hook_after_decision: str = ""
    hook_after_rollback: str = ""
    allow_hooks: bool = False
    pooler_uri: SecretStr = SecretStr("")

    @property
    def hooks(self) -> HookSettings:
        commands = {
            HookName.BEFORE_FREEZE: self.hook_before_freeze,
            HookName.AFTER_DECISION: self.hook_after_decision,
            HookName.AFTER_ROLLBACK: self.hook_after_rollback,
        }
        ours = self.embedded and socket_path(self.listen) is not None
        return HookSettings(
            commands, self.allow_hooks or ours, tuple(self.pooler_uri.get_secret_value().split())
        )
