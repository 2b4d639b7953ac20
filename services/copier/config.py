"""Settings of the copier."""

from __future__ import annotations

from pydantic import Field

from services.shared.bus.queue import ACK_WAIT_S
from services.shared.runtime.config import ServiceSettings


class CopierSettings(ServiceSettings):
    """lease_s: seconds after which another copier gets a part whose lease was not renewed. It must be the
    same for all copiers of a deployment; the value of the last one to start is used."""

    lease_s: float = Field(default=ACK_WAIT_S, ge=1.0)
