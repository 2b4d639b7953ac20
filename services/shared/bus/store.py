"""The coordinator's state in JetStream: one key per migration, written by compare and set.

A second coordinator that writes the same key makes the first one's next write fail (FENCED)
instead of overwriting it. A bucket that vanished (the store was deleted) is made again by the
next write. A write whose outcome is unknown is recognised afterwards by its content.
"""

from __future__ import annotations

from contextlib import suppress

from nats.aio.client import Client
from nats.js import api
from nats.js import errors as js_errors
from nats.js.kv import KeyValue

from services.shared.bus.connection import translated
from services.shared.model import STATE_BUCKET, ErrorKind, PgmigError

_DOING = f"keeping state in the bucket {STATE_BUCKET}"
_STREAM = f"KV_{STATE_BUCKET}"
_WRITE_ATTEMPTS = 3


class StateStore:
    """replicas: of the bucket's stream. Not safe for concurrent saves of one key."""

    def __init__(self, client: Client, *, replicas: int = 1) -> None:
        self._jetstream = client.jetstream()
        self._config = api.KeyValueConfig(
            bucket=STATE_BUCKET, history=1, storage=api.StorageType.FILE, replicas=replicas
        )
        self._revisions: dict[str, int] = {}
        self._attempted: dict[str, bytes] = {}

    async def load(self) -> dict[str, bytes]:
        """Every key's value; empty when there is no bucket. Later saves build on what was read."""
        with translated(_DOING):
            try:
                bucket = await self._jetstream.key_value(STATE_BUCKET)
                keys = await bucket.keys()
            except (js_errors.BucketNotFoundError, js_errors.NoKeysError):
                return {}
            found: dict[str, bytes] = {}
            for key in keys:
                with suppress(js_errors.KeyNotFoundError):
                    found[key] = await self._read(bucket, key)
        return found

    async def _read(self, bucket: KeyValue, key: str) -> bytes:
        entry = await bucket.get(key)
        self._revisions[key] = entry.revision or 0
        return entry.value or b""

    async def save(self, key: str, value: bytes) -> None:
        """Write `value` if nobody else wrote since. Raises FENCED, or BROKER: outcome unknown."""
        with translated(_DOING):
            bucket = await self._bucket()
            for _ in range(_WRITE_ATTEMPTS):
                earlier, self._attempted[key] = self._attempted.get(key), value
                try:
                    self._revisions[key] = await bucket.update(key, value, last=self._revisions.get(key, 0))
                except js_errors.KeyWrongLastSequenceError:
                    await self._recognise(bucket, key, {earlier, value})
                except js_errors.NoStreamResponseError:
                    self._revisions.clear()
                    bucket = await self._jetstream.create_key_value(self._config)
                else:
                    return
        raise PgmigError(ErrorKind.BROKER, f"{_DOING}: {key} could not be written")

    async def _bucket(self) -> KeyValue:
        try:
            return await self._jetstream.key_value(STATE_BUCKET)
        except js_errors.BucketNotFoundError:
            self._revisions.clear()
            return await self._jetstream.create_key_value(self._config)

    async def _recognise(self, bucket: KeyValue, key: str, ours: set[bytes | None]) -> None:
        """Learn the key's revision if what it holds is ours or nothing."""
        try:
            if await self._read(bucket, key) in ours:
                return
        except js_errors.KeyNotFoundError:
            self._revisions[key] = 0
            return
        raise PgmigError(
            ErrorKind.FENCED,
            f"the state of migration {key} was written by another coordinator",
            "run one coordinator for each NATS account; the other one carries on",
        )

    async def delete(self, key: str) -> bool:
        """Forget a key; whether it was there. No marker stays, as KV's own deletion would leave."""
        self._attempted.pop(key, None)
        self._revisions.pop(key, None)
        with translated(_DOING):
            try:
                bucket = await self._jetstream.key_value(STATE_BUCKET)
                await bucket.get(key)
                await self._jetstream.purge_stream(_STREAM, subject=f"$KV.{STATE_BUCKET}.{key}")
            except (js_errors.NotFoundError, js_errors.KeyNotFoundError, js_errors.NoStreamResponseError):
                return False
        return True


async def delete_stream(client: Client, name: str) -> bool:
    """Remove a stream with its messages; whether it was there."""
    with translated(f"removing stream {name}"):
        try:
            return await client.jetstream().delete_stream(name)
        except js_errors.NotFoundError:
            return False
