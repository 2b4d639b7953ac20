"""Partitions whose rows are written to another table on the destination."""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.model import Route


@dataclass(slots=True)
class Routing:
    """routes: the current ones. parted: earlier ones, whose partition no longer belongs to a partitioned
    table."""

    routes: tuple[Route, ...] = ()
    parted: tuple[Route, ...] = ()
