"""The copy's pure decisions: format, errors without row values, how often to report."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from services.copier.progress import Throttle
from services.copier.rate import BURST_S, RateLimit
from services.shared.model import ErrorKind, TableId
from services.shared.pg.copy.errors import ServerError, copy_failure, without_values
from services.shared.pg.copy.part import binary_safe

TABLE = TableId("shop", "orders")
INT4, TEXT_ARRAY, INTERVAL, XML, ENUM = 23, 1009, 1186, 142, 16385


def test_built_in_types_go_in_binary() -> None:
    assert binary_safe([INT4, TEXT_ARRAY, INTERVAL], 150004, 170002)


@pytest.mark.parametrize("oid", [ENUM, XML, 2205, 28, 22])
def test_any_other_type_makes_the_table_go_as_text(oid: int) -> None:
    assert not binary_safe([INT4, oid], 170000, 170000)


def test_a_table_without_columns_may_go_in_binary() -> None:
    assert binary_safe([], 170000, 170000)


def test_infinite_intervals_reach_an_older_server_as_text() -> None:
    assert not binary_safe([INTERVAL], 170000, 160004)
    assert not binary_safe([1187], 180000, 130000)
    assert binary_safe([INTERVAL], 160004, 170000)
    assert binary_safe([INT4], 170000, 160004)


@pytest.mark.parametrize(("source", "dest"), [(90600, 170000), (170000, 90600)])
def test_servers_before_10_get_text(source: int, dest: int) -> None:
    assert not binary_safe([INT4], source, dest)


@pytest.mark.parametrize(
    ("state", "message", "shown"),
    [
        (
            "22P02",
            'invalid input syntax for type integer: "a "secret" word"',
            'invalid input syntax for type integer: "..."',
        ),
        (
            "22003",
            'value "99" is out of range for type smallint',
            'value "..." is out of range for type smallint',
        ),
        (
            "22021",
            'invalid byte sequence for encoding "UTF8": 0xe4 0x20',
            'invalid byte sequence for encoding "...": ...',
        ),
        ("22P04", 'missing data for column "b"', 'missing data for column "b"'),
        ("23502", 'null value in column "a" violates it', 'null value in column "a" violates it'),
        ("42703", 'column "b" does not exist', 'column "b" does not exist'),
        ("P0001", "no 4711 here", "the server refused a row"),
        ("AB123", "no 4711 here", "the server refused a row"),
        ("", "4711", "the server refused a row"),
    ],
)
def test_messages_lose_values_and_keep_names(state: str, message: str, shown: str) -> None:
    assert without_values(state, message) == shown


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.errors.UndefinedTable("x"), ErrorKind.COPY_FAILED),
        (psycopg.errors.NotNullViolation("x"), ErrorKind.COPY_FAILED),
        (psycopg.errors.DiskFull("x"), ErrorKind.DISK_FULL),
        (psycopg.errors.InsufficientPrivilege("x"), ErrorKind.PERMISSION),
        (psycopg.errors.DeadlockDetected("x"), ErrorKind.DEADLOCK),
        (psycopg.errors.LockNotAvailable("x"), ErrorKind.TRANSIENT),
        (psycopg.errors.AdminShutdown("x"), ErrorKind.TRANSIENT),
        (psycopg.OperationalError("server closed the connection"), ErrorKind.UNREACHABLE),
    ],
)
def test_errors_of_a_copy_by_kind(error: psycopg.Error, kind: ErrorKind) -> None:
    ours = copy_failure(TABLE, error)
    assert ours.kind is kind
    assert "shop.orders" in ours.message


@pytest.mark.parametrize(
    ("error", "side"),
    [
        (psycopg.errors.DiskFull('could not extend file "base/1/2"'), "destination"),
        (ServerError("53100", 'could not extend file "base/1/2"', "destination"), "destination"),
        (ServerError("53100", 'could not extend file "base/1/2"', "source"), "source"),
    ],
)
def test_a_full_disk_is_reported_with_its_path_and_retried(error: psycopg.Error, side: str) -> None:
    ours = copy_failure(TABLE, error)
    assert ours.kind is ErrorKind.DISK_FULL
    assert ours.policy.retry
    assert f"copying shop.orders: the server's disk is full on the {side}: could not extend" in ours.message
    assert 'file "base/1/2"' in ours.message
    assert "make room" in ours.hint


async def test_progress_is_passed_on_in_its_newest_form_until_the_part_ends() -> None:
    seen: list[tuple[int, int]] = []
    told = asyncio.Event()

    def pass_on(rows: int, size: int) -> None:
        seen.append((rows, size))
        told.set()

    with Throttle(pass_on, interval_s=0.01) as progress:
        for tick in range(20):
            progress(tick, 10 * tick)
        await told.wait()  # though nothing more comes
        assert seen == [(19, 190)]
        progress(20, 200)
    with Throttle(pass_on, interval_s=0.0) as progress:
        progress(1, 1)
    for _ in range(3):
        await asyncio.sleep(0)
    assert seen == [(19, 190)]


async def test_a_rate_holds_on_average_and_allows_no_burst_after_a_pause() -> None:
    now = 100.0
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    rate = RateLimit(1000, clock=lambda: now, sleep=sleep)
    for _ in range(10):
        await rate(500)
    assert now == pytest.approx(105 - BURST_S)
    now += 60
    begun = now
    for _ in range(10):
        await rate(500)
    assert now - begun == pytest.approx(5 - BURST_S)
    slept.clear()
    unlimited = RateLimit(0, clock=lambda: now, sleep=sleep)
    await unlimited(1 << 40)
    assert slept == []
