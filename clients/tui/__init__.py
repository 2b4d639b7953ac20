"""The dashboard of one migration: `run(address, migration_id)`.

Only `run` imports Textual, because the CLI uses the pure modules here and must start fast.
"""

from __future__ import annotations

import asyncio


def run(address: str, migration_id: str) -> int:
    """Show the dashboard until the operator quits; return the exit code.

    address: HOST:PORT of the coordinator. If the coordinator was never reached, or does not know the
    migration, the dashboard ends with that error's exit code and a line on stderr.
    """
    from clients.tui.program import show

    return asyncio.run(show(address, migration_id))
