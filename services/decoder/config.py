"""Settings of the decoder."""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.bus.changes import DEFAULT_MAX_BYTES
from services.shared.runtime.config import ServiceSettings, setting, whole_number


@dataclass(frozen=True, slots=True)
class DecoderSettings(ServiceSettings):
    """max_stream_bytes: cap of a migration's change stream. A full stream makes the decoder wait
    and the source keep its WAL; nothing is dropped."""

    max_stream_bytes: int = setting(whole_number(1 << 20, (1 << 63) - 1), default=DEFAULT_MAX_BYTES)
