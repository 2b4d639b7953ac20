"""Bodies and queries of requests. Unknown fields are refused. Names and units are those of the model."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from services.shared.model import FreezeMode, LagLimit, Lsn, SwitchoverOptions, TableId, TableState

LARGEST = 2**53 - 1
LONGEST_DAY_MS = 86_400_000
LONGEST_HOOK_MS = 3_600_000
MOST_TABLES = 1000


def _encodable(uri: SecretStr) -> SecretStr:
    try:
        uri.get_secret_value().encode()
    except UnicodeEncodeError:
        raise ValueError("has characters that UTF-8 does not have") from None
    return uri


_Flag = Annotated[bool, Field(strict=True)]
_Uri = Annotated[SecretStr, Field(max_length=64 << 10), AfterValidator(_encodable)]
_Line = Annotated[str, Field(max_length=4096)]


def _lsn(text: str) -> str:
    try:
        Lsn.parse(text)
    except ValueError:
        raise ValueError("is not an LSN like 16/B374D848") from None
    return text


def _table(text: str) -> str:
    try:
        TableId.parse(text)
    except ValueError:
        raise ValueError("is not SCHEMA.TABLE; put names with dots in double quotes") from None
    return text


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Uris(Request):
    """Connection strings, for a coordinator that needs credentials. They are neither logged nor returned."""

    source_uri: _Uri | None = None
    destination_uri: _Uri | None = None

    @property
    def source(self) -> str | None:
        return self.source_uri.get_secret_value() if self.source_uri is not None else None

    @property
    def destination(self) -> str | None:
        return self.destination_uri.get_secret_value() if self.destination_uri is not None else None


class Resume(Uris):
    """skip_objects: further objects of the schema that are not restored."""

    skip_objects: Annotated[tuple[_Line, ...], Field(max_length=1000)] = ()


class Skip(Uris):
    """lsn: of the failed transaction's commit record. who: for the audit record."""

    lsn: Annotated[str, AfterValidator(_lsn)]
    reason: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"\S")]
    who: Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]


class Resync(Uris):
    """tables: SCHEMA.TABLE each, quoted as in SQL if needed."""

    tables: Annotated[
        tuple[Annotated[str, AfterValidator(_table)], ...], Field(min_length=1, max_length=MOST_TABLES)
    ]

    @property
    def table_ids(self) -> tuple[TableId, ...]:
        return tuple(TableId.parse(table) for table in self.tables)


class Cleanup(Uris):
    """force: also while the migration has not ended, and forget what cannot be removed."""

    force: _Flag = False


class Unfreeze(Uris):
    """read_only: sessions are read-only by default."""

    read_only: _Flag = False


class Lag(Request):
    """bytes: 0 for no limit. seconds: 0 for the default."""

    bytes: Annotated[int, Field(strict=True, ge=0, le=LARGEST)] = 0
    seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0

    @property
    def limit(self) -> LagLimit:
        return LagLimit(self.bytes, self.seconds)


class Rollback(Request):
    """The options of `pgmig-cli rollback`. timeout_ms: the longest time for which writes may be blocked.
    request_id: a second request with it gets the same operation; "": a random one. pause_poolers: connection
    strings, neither logged nor returned with passwords."""

    timeout_ms: Annotated[int, Field(strict=True, ge=1, le=LONGEST_DAY_MS)] = 30_000
    hold: _Flag = False
    max_lag: Lag = Lag()
    pause_poolers: Annotated[tuple[_Uri, ...], Field(max_length=100)] = ()
    hook_before_freeze: _Line = ""
    hook_after_decision: _Line = ""
    hook_after_rollback: _Line = ""
    hook_timeout_ms: Annotated[int, Field(strict=True, ge=1, le=LONGEST_HOOK_MS)] = 30_000
    request_id: Annotated[str, Field(max_length=200)] = ""

    @property
    def options(self) -> SwitchoverOptions:
        return SwitchoverOptions(
            timeout_ms=self.timeout_ms,
            hold=self.hold,
            max_lag=self.max_lag.limit,
            pause_poolers=tuple(uri.get_secret_value() for uri in self.pause_poolers),
            hook_before_freeze=self.hook_before_freeze,
            hook_after_decision=self.hook_after_decision,
            hook_after_rollback=self.hook_after_rollback,
            hook_timeout_ms=self.hook_timeout_ms,
        )


class Switchover(Rollback):
    """As for a rollback, and `freeze` and `reverse` as in `pgmig-cli switchover`."""

    freeze: FreezeMode = FreezeMode.DATABASE
    reverse: _Flag = False

    @property
    def options(self) -> SwitchoverOptions:
        return replace(super().options, freeze=self.freeze, reverse=self.reverse)


class TableSort(StrEnum):
    """state: those that are being copied first. size: the largest first. progress: the least done first."""

    STATE = "state"
    SIZE = "size"
    NAME = "name"
    PROGRESS = "progress"


class TablesQuery(Request):
    """search: a part of SCHEMA.TABLE, in any case."""

    search: Annotated[str, Field(max_length=200)] = ""
    state: TableState | None = None
    sort: TableSort = TableSort.NAME
    descending: bool = False
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    offset: Annotated[int, Field(ge=0, le=10_000_000)] = 0


class EventsQuery(Request):
    """after: the number of the last event that the client has."""

    after: Annotated[int, Field(ge=0, le=LARGEST)] = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 200


class LogQuery(Request):
    """offset: the byte at which to begin; without it, the end of the log is returned."""

    offset: Annotated[int, Field(ge=0, le=LARGEST)] | None = None


class ReadinessQuery(Request):
    """0: no limit in bytes; the default in seconds."""

    max_lag_bytes: Annotated[int, Field(ge=0, le=LARGEST)] = 0
    max_lag_seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0


class CertificateQuery(Request):
    """operation: "" for the last switchover that succeeded."""

    operation: Annotated[str, Field(max_length=200)] = ""


class ConflictsQuery(Request):
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class WatchQuery(Request):
    """epoch, after: of the last message that the client has got."""

    epoch: Annotated[str, Field(max_length=64)] = ""
    after: Annotated[int, Field(ge=0, le=LARGEST)] = 0
