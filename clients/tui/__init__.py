"""The dashboard of one migration: `run(address, migration_id)`.

Textual is imported by `run` only: the CLI shares the pure modules here and must start fast.
"""

from __future__ import annotations

import asyncio


def run(address: str, migration_id: str) -> int:
    """Show the dashboard until the operator quits; gives the exit code.

    address: HOST:PORT of the coordinator. A coordinator that was never reached, or one that
    does not know the migration, ends it with that error's exit code and a line on stderr.
    """
    from clients.tui.program import show

    return asyncio.run(show(address, migration_id))
