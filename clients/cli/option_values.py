"""Conversion of option texts to values: addresses, durations, sizes, LSNs. Raises click.BadParameter."""

from __future__ import annotations

import re

import click

from services.shared.model import LagLimit, Lsn, check_address

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*(kB|MB|GB)", re.IGNORECASE)
_UNIT_KB = {"KB": 1, "MB": 1 << 10, "GB": 1 << 20}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_SIZE_UNITS = ("", "k", "m", "g", "t")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def address(text: str) -> str:
    """HOST:PORT, or unix:PATH."""
    try:
        check_address(text)
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is {exc}") from exc
    if text.endswith(":0"):
        raise click.BadParameter(f"{text!r} has no port")
    return text


def listen_address(text: str) -> tuple[str, int]:
    """Host and port from HOST:PORT. Port 0 means any free port."""
    try:
        host, _, port = check_address(text).rpartition(":")
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is {exc}") from exc
    if not port.isdigit():
        raise click.BadParameter(f"{text!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def duration(text: str) -> float:
    """Seconds, from "30s", "500ms", "2m", "1h" or a plain number of seconds."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is not a duration like 30s, 500ms or 2m")
    return float(match[1]) * _UNIT_S[match[2] or "s"]


def memory(text: str) -> int:
    """Kilobytes, from "64MB" or "1.5GB", within PostgreSQL's limits for maintenance_work_mem."""
    match = _MEMORY.fullmatch(text.strip())
    size = int(float(match[1]) * _UNIT_KB[match[2].upper()]) if match else 0
    if not 1024 <= size < 1 << 31:
        raise click.BadParameter(f"{text!r} is not a size like 512MB or 2GB, of at least 1MB")
    return size


def size(text: str) -> int:
    """Bytes, from "512MB", "1.5GB", "64kB" or a plain number; units are powers of 1024, as in
    PostgreSQL's settings."""
    match = _SIZE.fullmatch(text.strip())
    value = round(float(match[1]) * 1024 ** _SIZE_UNITS.index((match[2] or "").lower())) if match else 0
    if not 1 <= value < 1 << 63:
        raise click.BadParameter(f"{text!r} is not a size like 512MB, 1GB or 64kB")
    return value


def lag(text: str) -> LagLimit:
    """Seconds or bytes with a unit: "5s", "500ms", "2m", "64MB". `m` means minutes."""
    given = text.strip()
    timed = _DURATION.fullmatch(given)
    if timed is not None and timed[2] and float(timed[1]) > 0:
        return LagLimit(seconds=duration(given))
    if timed is None and given[-1:] in {"b", "B"}:
        return LagLimit(bytes=size(given))
    raise click.BadParameter(f"{text!r} is not a lag like 5s, 2m or 64MB")


def position(text: str) -> Lsn:
    """An LSN, like 16/B374D848."""
    try:
        return Lsn.parse(text)
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is not an LSN like 16/B374D848") from exc
