"""How tables differ on the destination: column order, wider types, more columns, partitions, triggers."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from tests.property.kinds import name
from tests.property.table import Table, ddl, divide, type_of

_EXTRA_COLUMNS = (
    '"extra 1" int DEFAULT 7',
    "\"extra 2\" text DEFAULT 'there only'",
    '"extra 3" int',
    '"extra 4" int GENERATED ALWAYS AS (1 + 1) STORED',
    "\"extra 5\" text NOT NULL DEFAULT upper('x')",
)


def divided_there(random: Random, table: Table) -> Table:
    """The table as the destination divides it: at times otherwise, under the same names, or not at all."""
    draw = random.random()
    if not table.partitions or draw < 0.3:
        return table
    there = replace(table, partition_by="", partitions=[], attached=[])
    if draw < 0.65:
        divide(random, there, table.key[0])
    return there


def destination_ddl(random: Random, table: Table) -> list[str]:
    """As at the source, or with columns in another order, of wider types, and more of them."""
    if random.random() < 0.4:
        return ddl(table)
    columns = []
    for column in table.columns:
        wider = column.kind.wider and not column.ddl and not table.refers and random.random() < 0.3
        columns.append(f"{column.sql} {column.kind.wider if wider else type_of(table, column)}{column.ddl}")
    if random.random() < 0.5:
        columns += random.sample(_EXTRA_COLUMNS, random.randint(1, 3))
    if random.random() < 0.7:
        random.shuffle(columns)
    statements = ddl(replace(table, attached=[]), columns)
    return _partitioned_there(statements, table) if random.random() < 0.3 else statements


def _partitioned_there(statements: list[str], table: Table) -> list[str]:
    """The table is partitioned on the destination alone, if nothing but its key is unique."""
    column = (table.key or table.columns)[0]
    alone = len(table.constraints) == (table.identity in {"key", "full"}) and not table.indexes
    hashed = column.kind.key and not column.kind.big and column.kind.sql_type != "varbit"
    if table.partitions or not alone or not hashed or column.writable == "no":
        return statements
    leaves = [
        f"CREATE TABLE {name(table.schema)}.{name(f'leaf {table.name[-1]}{n}')} PARTITION OF {table.sql}"
        f" FOR VALUES WITH (MODULUS 3, REMAINDER {n})"
        for n in range(3)
    ]
    return [f"{statements[0]} PARTITION BY HASH ({column.sql})", *leaves, *statements[1:]]


def destination_triggers(random: Random, table: Table) -> list[str]:
    """At times triggers: an ordinary one, which must not fire, or one that must for every change."""
    draw = random.random()
    if draw > 0.2:
        return []
    body = "RETURN NULL" if draw < 0.1 else "IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW"
    function = f"{name(table.schema)}.{name('trigger of ' + table.name[-1])}"
    statements = [
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; END $$",
        f"CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON {table.sql}"
        f" FOR EACH ROW EXECUTE FUNCTION {function}()",
    ]
    if draw >= 0.1:
        statements.append(f"ALTER TABLE {table.sql} ENABLE ALWAYS TRIGGER t")
    return statements
