"""The environment of child processes."""

from __future__ import annotations

import os

_KEPT = ("PGMIG_PG_BINDIR", "PGMIG_NATS_SERVER")


def clean_environment(**variables: str) -> dict[str, str]:
    """Ours, without what would lead pgmig or libpq elsewhere, and with `variables`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "OTEL_")) or k in _KEPT}
    return {**kept, "PYTHONUNBUFFERED": "1", **variables}
