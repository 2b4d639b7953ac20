"""pgcopydb, when it is installed: which version, and what it can be asked to do here."""

from __future__ import annotations

import re
import shutil
import subprocess

import psycopg

PLUGIN = "wal2json"
"""The only output plugin that version 0.10, Debian's, can read: it has no --plugin option."""


def version() -> str:
    """As `pgcopydb --version` says, "" when it is not installed."""
    program = shutil.which("pgcopydb")
    if program is None:
        return ""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\S+)", done.stdout)
    return found[1] if found else "unknown"


def why_not_following(source: str) -> str:
    """Why no pgcopydb takes part in change capture: one sentence."""
    found = version()
    if not found:
        return "pgcopydb: not installed"
    with psycopg.connect(source, autocommit=True) as conn:
        try:
            conn.execute("SELECT pg_create_logical_replication_slot('probe', %s, true)", [PLUGIN])
        except psycopg.Error as exc:
            text = str(exc).splitlines()[0]
            return f"pgcopydb {found} does not take part: it needs {PLUGIN} in the source server ({text})"
    return f"pgcopydb {found} does not take part: nobody has taught this bench to drive it"
