"""How far the destination has flushed: reported by the applier to the decoder, which reports to the slot."""

from __future__ import annotations

from collections.abc import Callable

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from services.shared.bus.connection import Client, translated
from services.shared.model import PipelineId


class FlushChannel:
    """Flush reports from applier to decoder on a plain subject. They repeat, so a lost one is harmless."""

    def __init__(self, client: Client, pipeline: PipelineId) -> None:
        self._client = client
        self._subject = pipeline.flush_subject

    async def send(self, data: bytes) -> None:
        with translated("reporting the flush position"):
            await self._client.publish(self._subject, data)

    async def subscribe(self, receive: Callable[[bytes], None]) -> Subscription:
        """Call `receive(data: bytes)` for every report until the caller unsubscribes."""

        async def on_message(message: Msg) -> None:
            receive(message.data)

        with translated("listening for flush reports"):
            return await self._client.subscribe(self._subject, cb=on_message)
