"""Random changes: lists of SQL statements that belong together, on the tables of one schema.

The content of the tables is not tracked. There are few different values, so conditions find rows often
enough. A statement that the server refuses is part of the history, too.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.property.schema import Schema
from tests.property.table import Column, Table

Change = Callable[[Random, Table], list[str]]


def draw_change(random: Random, schema: Schema) -> list[str]:
    """Statements for one connection, one after the other."""
    change = random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    return change(random, random.choice(schema.tables))


def large_change(random: Random, schema: Schema) -> list[str]:
    """A transaction of more rows than the applier takes at once; [] when no table's key suits."""
    tables = [t for t in schema.tables if t.key and all(c.kind.number for c in t.key) and not t.unique]
    if not tables:
        return []
    table = random.choice(tables)
    key = ", ".join(c.sql for c in table.key)
    values = ", ".join("g" for _ in table.key)
    low = table.key[0].sql
    setting = (
        f"{table.others[0].sql} = {table.others[0].kind.value(random)}" if table.others else f"{low} = {low}"
    )
    return [
        "BEGIN",
        f"INSERT INTO {table.sql} ({key}) OVERRIDING SYSTEM VALUE"
        f" SELECT {values} FROM generate_series(1001, 7000) g",
        f"UPDATE {table.sql} SET {setting} WHERE {low} % 3 = 0",
        f"DELETE FROM {table.sql} WHERE {low} > 1000 AND {low} % 4 <> 1",
        random.choice(("COMMIT", "COMMIT", "ROLLBACK")),
    ]


def _value(random: Random, column: Column) -> str:
    if column.writable == "default" and random.random() < 0.6:
        return "DEFAULT"
    if column.writable == "yes" and not column.required and random.random() < 0.12:
        return "NULL"
    return column.kind.value(random)


def _typed(table: Table, column: Column, value: str) -> str:
    return f"CAST({value} AS {column.kind.sql_type.format(schema=_quoted_schema(table))})"


def _quoted_schema(table: Table) -> str:
    return table.sql.split('".')[0] + '"'


def _condition(random: Random, table: Table) -> str:
    """Some of the table's rows: mostly one."""
    draw = random.random()
    if draw < 0.05:
        return "true"
    if draw < 0.6 and table.key:
        return " AND ".join(_equal(random, table, column) for column in table.key)
    if draw < 0.75 and not table.partitions:
        offset = random.randrange(6)
        return f"ctid = (SELECT ctid FROM {table.sql} ORDER BY ctid OFFSET {offset} LIMIT 1)"
    return _equal(random, table, random.choice(table.columns))


def _equal(random: Random, table: Table, column: Column) -> str:
    value = _typed(table, column, column.kind.value(random))
    if column.kind.key and random.random() < 0.9:
        return f"{column.sql} = {value}"
    return f"{column.sql}::text IS NOT DISTINCT FROM {value}::text"


def insert(random: Random, table: Table) -> list[str]:
    columns = [c for c in table.insertable if c.required or random.random() < 0.85]
    if not columns:
        return [f"INSERT INTO {table.sql} DEFAULT VALUES"]
    rows = [
        "(" + ", ".join(_value(random, column) for column in columns) + ")"
        for _ in range(random.choice((1, 1, 1, 2, 4, 9)))
    ]
    return [
        f"INSERT INTO {table.sql} ({', '.join(c.sql for c in columns)}) OVERRIDING SYSTEM VALUE"
        f" VALUES {', '.join(rows)}{_on_conflict(random, table)}"
    ]


def _on_conflict(random: Random, table: Table) -> str:
    draw = random.random()
    if draw < 0.25 or not table.key or table.deferrable:
        return ""
    if draw < 0.75 or not table.others:
        return " ON CONFLICT DO NOTHING"
    column = random.choice(table.others).sql
    listed = ", ".join(c.sql for c in table.key)
    return f" ON CONFLICT ({listed}) DO UPDATE SET {column} = EXCLUDED.{column}"


def update(random: Random, table: Table) -> list[str]:
    """Of columns that are not the key's, big ones less often than not."""
    columns = [c for c in table.others if not c.kind.big or random.random() < 0.4]
    if not columns:
        return [f"UPDATE {table.sql} SET {table.columns[0].sql} = DEFAULT WHERE {_condition(random, table)}"]
    chosen = random.sample(columns, min(len(columns), random.choice((1, 1, 2, 3))))
    settings = [f"{c.sql} = {c.sql if random.random() < 0.1 else _value(random, c)}" for c in chosen]
    return [f"UPDATE {table.sql} SET {', '.join(settings)} WHERE {_condition(random, table)}"]


def update_key(random: Random, table: Table) -> list[str]:
    """To another value, with an arithmetic shift of all rows, or both key and others."""
    if not table.key:
        return update(random, table)
    column = random.choice(table.key)
    if column.writable == "default":
        return [f"UPDATE {table.sql} SET {column.sql} = DEFAULT WHERE {_condition(random, table)}"]
    if column.kind.number and random.random() < 0.3:
        value = f"{column.sql} + {random.choice((1, -1, 3, 100))}"
    else:
        value = _value(random, column)
    settings = [f"{column.sql} = {value}"]
    if table.others and random.random() < 0.3:
        other = random.choice(table.others)
        settings.append(f"{other.sql} = {_value(random, other)}")
    return [f"UPDATE {table.sql} SET {', '.join(settings)} WHERE {_condition(random, table)}"]


def delete(random: Random, table: Table) -> list[str]:
    return [f"DELETE FROM {table.sql} WHERE {_condition(random, table)}"]


def replace(random: Random, table: Table) -> list[str]:
    """Delete and insert again, with the same key or one that is only equal to it."""
    if not table.key:
        return delete(random, table) + insert(random, table)
    values = {column.name: _value(random, column) for column in table.key}
    wanted = {n: "1" if value == "DEFAULT" else value for n, value in values.items()}
    where = " AND ".join(f"{c.sql} = {_typed(table, c, wanted[c.name])}" for c in table.key)
    columns = [*table.key, *(c for c in table.others if c.required or random.random() < 0.7)]
    row = ", ".join(values.get(c.name) or _value(random, c) for c in columns)
    listed = ", ".join(c.sql for c in columns)
    statement = f"INSERT INTO {table.sql} ({listed}) OVERRIDING SYSTEM VALUE VALUES ({row})"
    return [f"DELETE FROM {table.sql} WHERE {where}", statement]


def churn(random: Random, table: Table) -> list[str]:
    """Many changes of few rows."""
    changes = (insert, update, update_key, delete, replace, update)
    return [
        text for change in random.choices(changes, k=random.randint(3, 8)) for text in change(random, table)
    ]


def swap(random: Random, table: Table) -> list[str]:
    """Two rows exchange a unique value: over a third value, or at once where that is deferrable."""
    candidates = [
        c for c in (*table.unique, *table.key[:1]) if c.writable == "yes" and len(c.kind.values) > 2
    ]
    if not candidates:
        return update_key(random, table)
    column = random.choice(candidates)
    one, two, spare = (_typed(table, column, v) for v in random.sample(column.kind.values, 3))
    head = f"UPDATE {table.sql} SET {column.sql} ="
    if column in table.deferrable and random.random() < 0.8:
        case = f"CASE WHEN {column.sql} = {one} THEN {two} ELSE {one} END"
        return [f"{head} {case} WHERE {column.sql} IN ({one}, {two})"]
    return [
        f"{head} {spare} WHERE {column.sql} = {one}",
        f"{head} {one} WHERE {column.sql} = {two}",
        f"{head} {two} WHERE {column.sql} = {spare}",
    ]


def merge(random: Random, table: Table) -> list[str]:
    if not table.key or not table.others or table.key[0].writable != "yes":
        return update(random, table)
    names = ", ".join(c.sql for c in table.key)
    rows = ", ".join(
        "(" + ", ".join(_typed(table, c, _value(random, c)) for c in table.key) + ")" for _ in range(3)
    )
    on = " AND ".join(f"t.{c.sql} = s.{c.sql}" for c in table.key)
    other = random.choice(table.others)
    value = _value(random, other)
    sent = ", ".join(f"s.{c.sql}" for c in table.key)
    return [
        f"MERGE INTO {table.sql} t USING (SELECT DISTINCT * FROM (VALUES {rows}) v ({names})) s ON {on}"
        f" WHEN MATCHED AND {random.choice(('true', 'false'))} THEN DELETE"
        f" WHEN MATCHED THEN UPDATE SET {other.sql} = {value}"
        f" WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({sent})"
    ]


def truncate(random: Random, table: Table) -> list[str]:
    options = random.choice(("", " RESTART IDENTITY", " CASCADE", " RESTART IDENTITY CASCADE", " CASCADE"))
    return [f"TRUNCATE {table.sql}{options}"]


def lock(random: Random, table: Table) -> list[str]:
    """Row locks leave records in the WAL, too."""
    strength = random.choice(("UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"))
    return [f"SELECT FROM {table.sql} WHERE {_condition(random, table)} FOR {strength}"]


def half_undone(random: Random, table: Table) -> list[str]:
    """One statement whose second half is undone, by an error that it handles itself."""
    first, second = (random.choice((insert, update, delete, update_key))(random, table)[0] for _ in range(2))
    return [
        f"DO $do$ BEGIN {first}; BEGIN {second}; RAISE 'undo'; EXCEPTION WHEN OTHERS THEN NULL; END; END $do$"
    ]


_WEIGHTS: dict[Change, float] = {
    insert: 30,
    update: 22,
    update_key: 10,
    delete: 9,
    replace: 7,
    churn: 6,
    swap: 7,
    merge: 3,
    truncate: 1.2,
    lock: 1,
    half_undone: 2,
}
