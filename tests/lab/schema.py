"""The lab's schema (schema.sql) and its rows (seed.sql)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg

_HERE = Path(__file__).parent


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
        connection.execute((_HERE / "schema.sql").read_bytes())


def seed(uri: str, rows: int = 10_000) -> None:
    """Create the schema and about `rows` rows (at least 1,000) on the server, as a superuser."""
    create_schema(uri)
    with psycopg.connect(uri) as connection:
        for name, count in asdict(SeedSize.of(rows)).items():
            connection.execute("SELECT set_config(%s, %s, true)", [f"lab.{name}", str(count)])
        connection.execute((_HERE / "seed.sql").read_bytes())
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("ANALYZE")
