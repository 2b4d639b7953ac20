"""Parts that several messages have in common: names, flags, and the check for the end."""

from __future__ import annotations

from services.shared.pgoutput.errors import corrupt


def end(data: bytes | memoryview, at: int) -> None:
    """Raise unless `at` is the end of `data`."""
    if at < len(data):
        raise corrupt(data, f"{len(data) - at} bytes follow its end")
    if at > len(data):
        raise corrupt(data, "it ends too early")


def known_flags(data: bytes | memoryview, flags: int, known: int) -> None:
    """Raise for bits outside `known`: a later protocol has given them a meaning that we do not know."""
    if flags & ~known:
        raise corrupt(data, f"the flags {flags:#04x} are unknown")


def string(data: bytes, at: int, codec: str = "utf-8") -> tuple[str, int]:
    """The NUL-terminated string at `at`, and the position after it."""
    stop = data.find(0, at)
    if stop < 0:
        raise corrupt(data, "a name has no end")
    try:
        return data[at:stop].decode(codec), stop + 1
    except UnicodeDecodeError as exc:
        raise corrupt(data, "a name is not UTF-8") from exc
