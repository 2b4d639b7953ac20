"""CPU seconds and peak memory of real processes, read from /proc while they run."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process, or of several under one name. peak_mb: the largest resident set of one."""

    cpu_s: float = 0.0
    peak_mb: float = 0.0


class Tally:
    """What named processes have used since they were first seen, or since `start`.

    A process is looked at often, because what it used cannot be read any more when it is gone.
    """

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._seen: dict[int, float] = {}
        self._before: dict[int, float] = {}
        self._peaks: dict[int, float] = {}

    def look(self, found: Mapping[int, str]) -> None:
        """found: process id to name."""
        for pid, name in found.items():
            try:
                times = psutil.Process(pid).cpu_times()
                peak = peak_mb(pid)
            except (psutil.Error, OSError):
                continue
            self._names[pid] = name
            self._seen[pid] = times.user + times.system
            self._peaks[pid] = max(peak, self._peaks.get(pid, 0.0))

    def start(self, found: Mapping[int, str]) -> None:
        """What these have used until now does not count."""
        self.look(found)
        self._before = dict(self._seen)

    def usage(self) -> dict[str, Usage]:
        """By name, in the order in which the names were first seen."""
        sums: dict[str, Usage] = {}
        for pid, name in self._names.items():
            so_far = sums.get(name, Usage())
            cpu = self._seen[pid] - self._before.get(pid, 0.0)
            sums[name] = Usage(so_far.cpu_s + cpu, max(so_far.peak_mb, self._peaks[pid]))
        return sums


def peak_mb(pid: int) -> float:
    """VmHWM: the largest resident set that a process ever had. Raises OSError when it is gone."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def server_cpu_s(postmaster: int) -> float:
    """CPU seconds of a server: its postmaster, the processes that it has reaped, those that live."""
    process = psutil.Process(postmaster)
    times = process.cpu_times()
    seconds = times.user + times.system + times.children_user + times.children_system
    for child in process.children():
        try:
            own = child.cpu_times()
        except psutil.Error:
            continue
        seconds += own.user + own.system
    return float(seconds)


@contextmanager
def sampled(find: Callable[[], Mapping[int, str]]) -> Iterator[Tally]:
    """Look at what `find` finds, again and again from a thread, until the end of the block."""
    tally, ended = Tally(), threading.Event()

    def work() -> None:
        while not ended.wait(SAMPLE_EVERY_S):
            tally.look(find())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield tally
    finally:
        ended.set()
        thread.join()
