"""The coordinator's state in JetStream: one key per migration, written by compare and set.

If a second coordinator writes the same key, the next write of the first one fails (FENCED)
and does not overwrite it. If the bucket has vanished (the store was deleted), the next write creates it
again. If a key has vanished from a bucket that is still the same, another coordinator has deleted it. It
stays deleted: FENCED too. A write whose outcome is unknown is recognized later by its content. A value
larger than LONGEST is stored in fragments next to its key (`manifest`); reads and writes depend on the key.

A deleted key leaves a mark (`removed`), which says what was deleted. A coordinator that was replaced before
the deletion still has the migration in its state file, and must not write it into the store again when it is
restarted.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from nats.aio.client import Client
from nats.js import api
from nats.js import errors as js_errors
from nats.js.kv import KeyValue

from services.shared.bus.connection import translated
from services.shared.bus.manifest import Manifest, divided
from services.shared.model import STATE_BUCKET, ErrorKind, PgmigError

_DOING = f"keeping state in the bucket {STATE_BUCKET}"
_STREAM = f"KV_{STATE_BUCKET}"
_WRITE_ATTEMPTS = 3
_READ_ATTEMPTS = 3
LONGEST = 512 * 1024
"""Bytes of one message, or less if the broker accepts less. The broker's default is 1 MiB."""
_HEADERS = 4096
_REMOVED = "REMOVED"
"""Marks are named `REMOVED.key`. No migration has such an id: ids are in lower case."""


class StateStore:
    """replicas: of the bucket's stream. Not safe for concurrent saves of one key."""

    def __init__(self, client: Client, *, replicas: int = 1) -> None:
        self._client = client
        self._jetstream = client.jetstream()
        self._config = api.KeyValueConfig(
            bucket=STATE_BUCKET, history=1, storage=api.StorageType.FILE, replicas=replicas
        )
        self._revisions: dict[str, int] = {}
        self._attempted: dict[str, bytes] = {}
        self._manifests: dict[str, Manifest | None] = {}
        self._deleting: set[str] = set()  # deletions whose outcome is unknown
        self._created: datetime | None = None  # when the bucket of these revisions was created

    async def load(self) -> dict[str, bytes]:
        """Every key's value; empty if there is no bucket. Later saves expect the revisions that were read."""
        with translated(_DOING):
            try:
                bucket = await self._jetstream.key_value(STATE_BUCKET)
            except js_errors.BucketNotFoundError:
                return {}
            self._created = await self._bucket_created()
            found: dict[str, bytes] = {}
            for key in await self._keys():
                with suppress(js_errors.KeyNotFoundError):
                    found[key] = await self._whole(bucket, key)
        return found

    async def _keys(self) -> list[str]:
        """Every key, from the stream's list of subjects. Fragments, `key.digest.N`, do not match `*`.

        nats-py's `keys()` starts a consumer. It may report an empty bucket if the consumer's first
        message arrives before the answer that counts the remaining messages.
        """
        return await self._below("")

    async def _below(self, prefix: str) -> list[str]:
        """The keys that are `prefix` and one token, without the prefix."""
        start = f"$KV.{STATE_BUCKET}.{prefix}"
        info = await self._jetstream.stream_info(_STREAM, subjects_filter=f"{start}*")
        return [subject.removeprefix(start) for subject in info.state.subjects or {}]

    async def removed(self) -> dict[str, bytes]:
        """The marks of keys that were deleted from this bucket, by key. Keys that exist again have none."""
        with translated(_DOING):
            try:
                bucket = await self._jetstream.key_value(STATE_BUCKET)
                keys = set(await self._below(f"{_REMOVED}.")).difference(await self._keys())
                marks = {key: await bucket.get(f"{_REMOVED}.{key}") for key in sorted(keys)}
                return {key: mark.value or b"" for key, mark in marks.items()}
            except (js_errors.NotFoundError, js_errors.KeyNotFoundError):
                return {}

    async def _whole(self, bucket: KeyValue, key: str) -> bytes:
        """The value, joined if it is stored in fragments. If fragments are lost, the value is empty."""
        for _ in range(_READ_ATTEMPTS):
            head, self._revisions[key] = await self._read(bucket, key)
            manifest = self._manifests[key] = Manifest.of(head)
            if manifest is None:
                return head
            with suppress(js_errors.KeyNotFoundError):  # replaced just now
                entries = [await bucket.get(name) for name in manifest.keys(key)]
                value = b"".join(entry.value or b"" for entry in entries)
                if manifest.fits(value):
                    return value
        return b""

    async def _read(self, bucket: KeyValue, key: str) -> tuple[bytes, int]:
        """The content of the key itself, and its revision."""
        entry = await bucket.get(key)
        return entry.value or b"", entry.revision or 0

    async def save(self, key: str, value: bytes) -> None:
        """Write `value` if nobody else has written since. Raises FENCED, or BROKER: outcome unknown."""
        with translated(_DOING):
            bucket = await self._bucket()
            for _ in range(_WRITE_ATTEMPTS):
                try:
                    head = await self._store_fragments(bucket, key, value)
                    earlier, self._attempted[key] = self._attempted.get(key), head
                    self._revisions[key] = await bucket.update(key, head, last=self._revisions.get(key, 0))
                except js_errors.KeyWrongLastSequenceError:
                    await self._recognise(bucket, key, {earlier, head})
                except js_errors.NoStreamResponseError:
                    bucket = await self._new_bucket()
                else:
                    self._deleting.discard(key)
                    return await self._forget_fragments(key, Manifest.of(head))
        raise PgmigError(ErrorKind.BROKER, f"{_DOING}: {key} could not be written")

    async def _store_fragments(self, bucket: KeyValue, key: str, value: bytes) -> bytes:
        """The content for the key: the value, or the manifest of its fragments, which are stored first."""
        parts = divided(value, min(LONGEST, self._client.max_payload - _HEADERS))
        if parts is None:
            return value
        manifest, fragments = parts
        for name, fragment in zip(manifest.keys(key), fragments, strict=True):
            await bucket.put(name, fragment)
        return manifest.encode()

    async def _forget_fragments(self, key: str, current: Manifest | None) -> None:
        """Remove the fragments of the previous value. If this fails, they are removed with the key."""
        before, self._manifests[key] = self._manifests.get(key), current
        if before is not None and before != current:
            with suppress(TimeoutError, js_errors.Error):
                await self._purge(f"{key}.{before.digest}.>")

    async def _purge(self, keys: str) -> None:
        await self._jetstream.purge_stream(_STREAM, subject=f"$KV.{STATE_BUCKET}.{keys}")

    async def _bucket(self) -> KeyValue:
        try:
            return await self._jetstream.key_value(STATE_BUCKET)
        except js_errors.BucketNotFoundError:
            return await self._new_bucket()

    async def _new_bucket(self) -> KeyValue:
        self._revisions.clear()
        bucket = await self._jetstream.create_key_value(self._config)
        self._created = await self._bucket_created()
        return bucket

    async def _bucket_created(self) -> datetime | None:
        return (await self._jetstream.stream_info(_STREAM)).created

    async def _recognise(self, bucket: KeyValue, key: str, ours: set[bytes | None]) -> None:
        """Update the key's revision if its content is ours, if we have deleted the key ourselves, or if the
        bucket is a new one without the key. Otherwise every later save is refused too. If we used the
        revision of the other coordinator's record, we would overwrite it."""
        try:
            head, revision = await self._read(bucket, key)
            if head in ours:
                self._revisions[key] = revision
                return
        except js_errors.KeyNotFoundError:
            if key in self._deleting:
                self._revisions.pop(key, None)
                return
            created = await self._bucket_created()
            if created == self._created:
                raise _removed(key) from None
            self._created = created
            self._revisions.clear()
            return
        raise PgmigError(
            ErrorKind.FENCED,
            f"the state of migration {key} was written by another coordinator",
            "run one coordinator for each NATS account; the other one continues",
        )

    async def delete(self, key: str, mark: bytes = b"") -> bool:
        """Delete a key; return whether it existed. The mark says what was removed. After an error, `save` and
        `delete` can be repeated, whether the key was deleted or not. The deletion of
        JetStream's key-value store is not used: after it only a writer that knows the revision of the
        deletion could write the key."""
        with translated(_DOING):
            try:
                bucket = await self._jetstream.key_value(STATE_BUCKET)
                await bucket.put(f"{_REMOVED}.{key}", mark)
                await bucket.get(key)
                self._deleting.add(key)
                await self._purge(key)
                await self._purge(f"{key}.>")
                existed = True
            except (js_errors.NotFoundError, js_errors.KeyNotFoundError, js_errors.NoStreamResponseError):
                existed = False
        self._deleting.discard(key)
        for known in (self._attempted, self._revisions, self._manifests):
            known.pop(key, None)
        return existed


def _removed(key: str) -> PgmigError:
    return PgmigError(
        ErrorKind.FENCED,
        f"the state of migration {key} was removed by another coordinator",
        "the migration was cleaned up there; run one coordinator for each NATS account",
    )


async def delete_stream(client: Client, name: str) -> bool:
    """Remove a stream with its messages; return whether it existed."""
    with translated(f"removing stream {name}"):
        try:
            return await client.jetstream().delete_stream(name)
        except js_errors.NotFoundError:
            return False
