"""The environment of child processes."""

from __future__ import annotations

import os

_KEPT = ("PGMIG_PG_BINDIR", "PGMIG_NATS_SERVER")


def clean_environment(**variables: str) -> dict[str, str]:
    """Our environment with `variables`, without those that would connect pgmig or libpq to something else."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "OTEL_")) or k in _KEPT}
    return {**kept, "PYTHONUNBUFFERED": "1", **variables}
