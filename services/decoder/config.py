"""Settings of the decoder."""

from __future__ import annotations

from pydantic import Field

from services.shared.bus.change_writer import DEFAULT_MAX_BYTES
from services.shared.runtime.config import ServiceSettings


class DecoderSettings(ServiceSettings):
    """max_stream_bytes: size limit of a migration's change stream. If the stream is full, the decoder waits
    and the source retains its WAL; nothing is dropped."""

    max_stream_bytes: int = Field(default=DEFAULT_MAX_BYTES, ge=1 << 20)
