"""Settings of the copier."""

from __future__ import annotations

from pydantic import Field

from services.shared.bus.queue import ACK_WAIT_S
from services.shared.runtime.config import ServiceSettings


class CopierSettings(ServiceSettings):
    """lease_s: seconds without a sign after which a part goes to another copier. The same for
    all copiers of a deployment: the last to start sets it."""

    lease_s: float = Field(default=ACK_WAIT_S, ge=1.0)
