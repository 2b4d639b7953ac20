"""The other faces of pgmig, which the command line starts without importing them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clients.serving import Serve


@dataclass(frozen=True, slots=True)
class Faces:
    """dashboard: shows the migration with this id of the coordinator at this address, in the terminal, and
    returns the exit code."""

    dashboard: Callable[[str, str], int]
    web: Serve
