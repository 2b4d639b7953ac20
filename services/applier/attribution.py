"""Which source transaction an error belongs to, and in which trace a group is."""

from __future__ import annotations

from contextlib import ExitStack

from services.applier.planner import Chunk
from services.shared.model import Lsn, PgmigError
from services.shared.runtime.telemetry import SpanName, span


class _Located:
    """Adds the source transaction's commit LSN and xid to an error that has none, or the xid to one with that
    LSN. xid 0: another transaction of the group may be the cause."""

    def __init__(self, lsn: int, xid: int = 0) -> None:
        self._lsn = lsn
        self._xid = xid

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, PgmigError) and exc.lsn in {None, Lsn(self._lsn)}:
            exc.lsn = Lsn(self._lsn)
            exc.xid = exc.xid or self._xid


def located(group: list[Chunk]) -> _Located:
    """A single transaction, or part of one, is the cause. Of several only the first is known."""
    first = group[0]
    if len(group) == 1 and len(first.transactions) <= 1:
        return _Located(first.commit_lsn, first.xid)
    return _Located(first.transactions[0].commit_lsn)


def spans(chunks: list[Chunk]) -> ExitStack:
    """A span in the trace of each batch from which the chunks came."""
    stack = ExitStack()
    seen: set[int] = set()
    for chunk in chunks:
        if chunk.trace is not None and id(chunk.trace) not in seen:
            seen.add(id(chunk.trace))
            stack.enter_context(span(SpanName.APPLY_BATCH, chunk.trace, transactions=len(chunk.transactions)))
    return stack
