"""Partitions whose rows go to another table on the destination."""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.model import Route


@dataclass(slots=True)
class Routing:
    """routes: of now. parted: of before; these are in no partitioned table any more."""

    routes: tuple[Route, ...] = ()
    parted: tuple[Route, ...] = ()
