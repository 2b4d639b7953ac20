"""The test schema (schema.sql) and its rows (seed.sql)."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg

_HERE = Path(__file__).parent
_VERSIONED = re.compile(r" --\[(?P<before><)?(?P<major>\d+)\]$")


@dataclass(frozen=True, slots=True)
class SeedSize:
    """Rows of the tables that grow with the seed; order_items has two for each order."""

    accounts: int
    orders: int
    ledger: int
    events: int
    audit: int
    documents: int

    @classmethod
    def of(cls, rows: int) -> SeedSize:
        """About `rows` in all."""
        share = max(rows, 1000) // 100
        return cls(15 * share, 20 * share, 10 * share, 10 * share, 4 * share, share)


def create_schema(uri: str) -> None:
    """Create everything in an empty database."""
    with psycopg.connect(uri) as connection:
        major = connection.info.server_version // 10000
        connection.execute(schema_for((_HERE / "schema.sql").read_text(), major).encode())


def schema_for(script: str, major: int) -> str:
    """The lines of `script` that apply to this version of PostgreSQL."""
    return "\n".join(line for line in script.split("\n") if _is_for(line, major))


def _is_for(line: str, major: int) -> bool:
    mark = _VERSIONED.search(line)
    return mark is None or (major < int(mark["major"])) == bool(mark["before"])


def seed(uri: str, rows: int = 10_000) -> None:
    """Create the schema and about `rows` rows (at least 1,000) on the server, as a superuser."""
    create_schema(uri)
    with psycopg.connect(uri) as connection:
        for name, count in asdict(SeedSize.of(rows)).items():
            connection.execute("SELECT set_config(%s, %s, true)", [f"lab.{name}", str(count)])
        connection.execute((_HERE / "seed.sql").read_bytes())
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("ANALYZE")
