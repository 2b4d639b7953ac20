"""Figures in the form that operators read: pure functions from values to short text.

Bytes are shown in binary units, durations in the two largest units, counts with three digits. Text
from a database or from the network must pass `printable` before it is displayed, so that the name of
a table cannot move the terminal's cursor.
"""

from __future__ import annotations

from datetime import datetime

from services.shared.model import Endpoint, Lsn

NONE = "—"
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_DECIMAL = ("", "k", "M", "G", "T", "P")
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def duration(seconds: float) -> str:
    """`7s`, `4m 05s`, `2h 07m`, `3d 04h`. A negative value is shown as 0, since two hosts' clocks differ."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02d}h"


def precise(seconds: float) -> str:
    """A short time with tenths or milliseconds: `0s`, `420ms`, `1.4s`; longer times as `duration`."""
    if seconds <= 0:
        return "0s"
    if seconds < 0.9995:
        return f"{max(1, round(seconds * 1000))}ms"
    return f"{seconds:.1f}s" if seconds < 59.95 else duration(seconds)


def size(value: float) -> str:
    """Bytes: `0 B`, `1.5 KiB`, `23.4 MiB`, `812 GiB`."""
    return _scaled(value, 1024, _BINARY, " ")


def size_of(done: float, total: float) -> str:
    """`25.0 of 41.0 GiB`; both numbers have a unit only if the units differ."""
    first, second = size(done), size(total)
    number, unit = first.split(" ")
    return f"{number} of {second}" if second.endswith(f" {unit}") else f"{first} of {second}"


def count(value: float) -> str:
    """Rows, transactions: `0`, `950`, `1.2k`, `34.5M`."""
    return _scaled(value, 1000, _DECIMAL, "")


def size_rate(bytes_per_second: float) -> str:
    return f"{size(bytes_per_second)}/s"


def count_rate(per_second: float) -> str:
    return f"{count(per_second)}/s"


def percent(fraction: float) -> str:
    """`68.2%`. Never `100.0%` before everything is done."""
    if fraction >= 1:
        return "100%"
    return f"{min(99.9, max(0.0, fraction * 100)):.1f}%"


def lsn(value: Lsn) -> str:
    return str(value) if value else NONE


def version(server_version_num: int) -> str:
    """170004 is `17.4`, 90624 is `9.6.24`; 0 means unknown and gives an empty text."""
    if server_version_num <= 0:
        return ""
    major, rest = divmod(server_version_num, 10_000)
    if major >= 10:
        return f"{major}.{rest}"
    return f"{major}.{rest // 100}.{rest % 100}"


def endpoint(where: Endpoint) -> str:
    """`host:port/database`, with IPv6 addresses in brackets and all of several servers; a dash if the host is
    unknown."""
    if not where.host:
        return NONE
    servers = ",".join(
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in where.servers
    )
    return printable(f"{servers}/{where.dbname}")


def clock(at: float) -> str:
    """Time of day in the operator's time zone."""
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")


def printable(text: str) -> str:
    """`text` on one line, with control characters shown as a dot."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "·" for c in text)


def bar(fraction: float, width: int) -> tuple[str, str]:
    """A progress bar of `width` cells as (done, left), which can be styled separately.

    The two also differ in shape, so that the bar can be read without colours.
    """
    eighths = int(min(1.0, max(0.0, fraction)) * width * 8)
    full, part = divmod(eighths, 8)
    done = "█" * full + (_EIGHTHS[part] if part else "")
    return done, "░" * (width - len(done))


def line_bar(fraction: float, width: int) -> tuple[str, str]:
    """As `bar`, but thin, for lists of bars."""
    halves = int(min(1.0, max(0.0, fraction)) * width * 2)
    done = "━" * (halves // 2) + ("╸" if halves % 2 else "")
    return done, "─" * (width - len(done))


def _scaled(value: float, base: int, units: tuple[str, ...], gap: str) -> str:
    value = max(0.0, value)
    index = 0
    # 999.5 would be rounded to a fourth digit, so the next unit is used.
    while value >= 999.5 and index < len(units) - 1:
        value /= base
        index += 1
    digits = f"{value:.0f}" if index == 0 or value >= 99.95 else f"{value:.1f}"
    return f"{digits}{gap}{units[index]}"
