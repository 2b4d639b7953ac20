"""Random statements on few keys, for writers on two sides that replicate to each other."""

from __future__ import annotations

from random import Random

import psycopg

TRANSACTIONS = 60
KEYS = 8
# The last one: another transaction has moved the row to another partition.
_REFUSED = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)
TABLES = ("one", "two", "full", "part")
DDL = """
CREATE TABLE one (id int PRIMARY KEY, v int, w text);
CREATE TABLE two (a int, b text, v int, n numeric, PRIMARY KEY (b, a));
CREATE TABLE "full" (id int PRIMARY KEY, v int, big text);
ALTER TABLE "full" ALTER big SET STORAGE EXTERNAL;
ALTER TABLE "full" REPLICA IDENTITY FULL;
CREATE TABLE part (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (4);
CREATE TABLE part_high PARTITION OF part FOR VALUES FROM (4) TO (1000);
INSERT INTO one SELECT i, 0, 'start' FROM generate_series(0, 3) i;
INSERT INTO two SELECT i, 'b', 0, 1.50 FROM generate_series(0, 3) i;
INSERT INTO "full" SELECT i, 0, repeat('s', 3000) FROM generate_series(0, 3) i;
INSERT INTO part SELECT i, 0 FROM generate_series(2, 5) i;
"""


def statement(random: Random) -> str:
    """One that a constraint never refuses, except for changes of keys."""
    key, other, v = random.randrange(KEYS), random.randrange(KEYS), random.randrange(10**6)
    table = random.choice(TABLES)
    if table == "two":
        return random.choice(
            (
                f"INSERT INTO two VALUES ({key}, 'b', {v}, {v}.50) ON CONFLICT DO NOTHING",
                f"INSERT INTO two VALUES ({key}, 'b', {v}, 1) ON CONFLICT (b, a) DO UPDATE SET v = {v}",
                f"UPDATE two SET v = {v} WHERE a = {key}",
                f"UPDATE two SET n = n + 1 WHERE a >= {key}",
                f"DELETE FROM two WHERE a = {key}",
                f"UPDATE two SET a = {other} WHERE a = {key}"
                f" AND NOT EXISTS (SELECT FROM two WHERE a = {other})",
            )
        )
    name = f'"{table}"'
    columns, values = {
        "one": ("id, v, w", f"{key}, {v}, 'w{v}'"),
        "full": ("id, v, big", f"{key}, {v}, repeat('{v % 10}', 3000)"),
        "part": ("id, v", f"{key}, {v}"),
    }[table]
    return random.choice(
        (
            f"INSERT INTO {name} ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING",
            f"INSERT INTO {name} ({columns}) VALUES ({values}) ON CONFLICT (id) DO UPDATE SET v = {v}",
            f"UPDATE {name} SET v = {v} WHERE id = {key}",
            f"UPDATE {name} SET v = v + 1 WHERE id >= {key}",
            f"DELETE FROM {name} WHERE id = {key}",
            f"DELETE FROM {name} WHERE id = {key}; INSERT INTO {name} ({columns}) VALUES ({values})"
            " ON CONFLICT DO NOTHING",
            f"UPDATE {name} SET id = {other} WHERE id = {key}"
            f" AND NOT EXISTS (SELECT FROM {name} WHERE id = {other})",
        )
    )


def write(uri: str, seed: str) -> None:
    """Some transactions, one after the other."""
    random = Random(seed)
    with psycopg.connect(uri, autocommit=True) as conn:
        for _ in range(TRANSACTIONS):
            statements = [statement(random) for _ in range(random.choice((1, 1, 2, 5)))]
            try:
                with conn.transaction():
                    for one in statements:
                        conn.execute(one.encode())
            except _REFUSED:
                continue
