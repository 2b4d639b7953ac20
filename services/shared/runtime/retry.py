"""Retrying work after an error that a retry may cure (`PgmigError.policy.retry`).

Back-off is exponential with jitter, up to a longest wait. Without a time limit, attempts never end,
so a service still retries when a database or broker returns after an hour. Work that ran well for a
while before it failed starts again with the shortest wait. Any other exception (other errors,
cancellation) is passed to the caller.
"""

from __future__ import annotations

import logging
import random
import time
from asyncio import sleep
from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity

from services.shared.model import ErrorKind, PgmigError, back_off_s

log = logging.getLogger(__name__)

T = TypeVar("T")
OnFailure = Callable[[PgmigError], None]

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 15.0
STEADY_S = 30.0
"""Work that ran this long before it failed is considered to have recovered."""


def curable(exc: BaseException) -> bool:
    """Whether retrying the same work may succeed."""
    return isinstance(exc, PgmigError) and exc.policy.retry


class _Attempts:
    """The failures in a row of one piece of work, and the wait computed from them."""

    def __init__(
        self, doing: str, first_wait_s: float, longest_wait_s: float, on_failure: OnFailure | None
    ) -> None:
        self._doing = doing
        self._on_failure = on_failure
        self._first_wait_s = first_wait_s
        self._longest_wait_s = longest_wait_s
        self._failures = 0
        self._began = 0.0

    def begin(self) -> None:
        self._began = time.monotonic()

    @property
    def lasted_s(self) -> float:
        """Seconds since the attempt began."""
        return time.monotonic() - self._began

    def wait_s(self, state: tenacity.RetryCallState) -> float:
        """Seconds until the next attempt: between half and all of the doubled wait. After a deadlock it is
        always computed from the first wait, because the other transaction has continued."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, PgmigError) and error.kind is ErrorKind.DEADLOCK:
            return self._first_wait_s * random.uniform(0.25, 0.5)  # noqa: S311 - jitter
        if self.lasted_s >= STEADY_S:
            self._failures = 0
        wait = back_off_s(self._first_wait_s, self._longest_wait_s, self._failures)
        self._failures += 1
        return wait * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

    def tell(self, state: tenacity.RetryCallState) -> None:
        reason = state.outcome.exception() if state.outcome else None
        wait = state.next_action.sleep if state.next_action else 0.0
        log.warning(
            "%s failed (attempt %d): %s; trying again in %.1f s",
            self._doing,
            state.attempt_number,
            reason,
            wait,
        )
        if self._on_failure is not None and isinstance(reason, PgmigError):
            self._on_failure(reason)


async def retrying(
    doing: str,
    operation: Callable[[], Awaitable[T]],
    *,
    first_wait_s: float = FIRST_WAIT_S,
    longest_wait_s: float = LONGEST_WAIT_S,
    give_up_after_s: float | None = None,
    on_failure: OnFailure | None = None,
) -> T:
    """Await `operation()` until it succeeds or fails with an error that no retry cures.

    doing: names the work in the log: "reading the slot of m1". give_up_after_s: no new attempt
    begins after that many seconds; None: no limit. on_failure: called with each error that is
    retried. Raises the last error.
    """
    attempts = _Attempts(doing, first_wait_s, longest_wait_s, on_failure)
    attempts.begin()
    try:  # the first attempt avoids the cost of tenacity, since most operations succeed at once
        return await operation()
    except PgmigError as exc:
        failures = [exc]
    left = None if give_up_after_s is None else max(0.0, give_up_after_s - attempts.lasted_s)
    stop = tenacity.stop_never if left is None else tenacity.stop_before_delay(left)
    async for attempt in tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(curable),
        wait=attempts.wait_s,
        stop=stop,
        sleep=sleep,
        before_sleep=attempts.tell,
        reraise=True,
    ):
        with attempt:
            if failures:
                raise failures.pop()
            attempts.begin()
            return await operation()
    raise AssertionError("AsyncRetrying ends by returning or raising")
