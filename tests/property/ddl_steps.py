"""What an application can do to its tables and their rows, drawn from random numbers and the catalog.

A step is a list of statements: run one by one or as one transaction. Each kind is given its random
numbers and the tables, and gives None where it has no place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import psycopg

SCHEMA = "app"
TYPES = (
    "int",
    "bigint",
    "numeric(10,2)",
    "numeric(12,4)",
    "numeric",
    "real",
    "float8",
    "text",
    "varchar(5)",
    "varchar(20)",
)
WIDER = {
    "integer": ("bigint", "numeric"),
    "bigint": ("numeric",),
    "numeric(10,2)": ("numeric(12,4)", "numeric", "numeric(12,2)"),
    "numeric(12,4)": ("numeric", "numeric(10,2)"),
    "numeric": ("float8", "numeric(12,4)"),
    "real": ("float8",),
    "double precision": ("text", "real"),
    "text": ("varchar(20)",),
    "character varying(5)": ("varchar(20)", "text"),
    "character varying(20)": ("text",),
}
NAMES = ("a", "b", "c", "d", "e")
PARTITIONS = ("p0", "p1", "p2", "p3")
COLUMNS = ("c1", "c2", "c3", "c4", "c5")


@dataclass(frozen=True, slots=True)
class Relation:
    """columns: name to type, without `id`. parent: "" for none. number: of a partition's range."""

    name: str
    kind: str
    parent: str
    columns: dict[str, str]

    @property
    def sql(self) -> str:
        return f"{SCHEMA}.{self.name}"


@dataclass(frozen=True, slots=True)
class Step:
    statements: tuple[str, ...]
    together: bool = True


Tables = list[Relation]
_DESCRIBE = """
    SELECT c.relname, c.relkind::text, coalesce(p.relname, ''),
           coalesce(jsonb_object_agg(a.attname, format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
                    FILTER (WHERE a.attname <> 'id'), '{}')
    FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = i.inhparent
         LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace = 'app'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'big'
    GROUP BY 1, 2, 3 ORDER BY 1"""


def describe(conn: psycopg.Connection) -> Tables:
    return [Relation(*row) for row in conn.execute(_DESCRIBE)]


def value(random: Random, kind: str) -> str:
    """An SQL expression of such a column."""
    if kind in {"integer", "bigint"}:
        return str(random.randrange(-99, 99))
    if kind.startswith("numeric") or kind in {"real", "double precision"}:
        return random.choice(("1.2345", "0.1", "-7", "3.14159", "NULL"))
    return random.choice(("'x'", "'Ab'", "''", "NULL", "'it''s'"))


def insert(random: Random, tables: Tables) -> Step | None:
    table = random.choice(tables)
    ids = random.sample(range(200), random.choice((1, 3, 8)))
    names = "".join(f", {name}" for name in table.columns)
    rows = ", ".join(
        f"({key}{''.join(', ' + value(random, kind) for kind in table.columns.values())})" for key in ids
    )
    return Step((f"INSERT INTO {table.sql} (id{names}) VALUES {rows} ON CONFLICT DO NOTHING",))


def update(random: Random, tables: Tables) -> Step | None:
    table = random.choice(tables)
    if not table.columns:
        return None
    name, kind = random.choice(list(table.columns.items()))
    divisor = random.choice((1, 2, 5))
    where = f"id % {divisor} = {random.randrange(divisor)}"
    return Step((f"UPDATE {table.sql} SET {name} = {value(random, kind)} WHERE {where}",))


def delete(random: Random, tables: Tables) -> Step | None:
    return Step((f"DELETE FROM {random.choice(tables).sql} WHERE id % 6 = {random.randrange(6)}",))


def truncate(random: Random, tables: Tables) -> Step | None:
    return Step((f"TRUNCATE {random.choice(tables).sql}",))


def move_rows(random: Random, tables: Tables) -> Step | None:
    one, two = random.choice(tables), random.choice(tables)
    names = "".join(f", {name}" for name in one.columns if two.columns.get(name) == one.columns[name])
    select = f"SELECT id{names} FROM {one.sql} ON CONFLICT DO NOTHING"
    return (
        Step((f"INSERT INTO {two.sql} (id{names}) {select}", f"TRUNCATE {one.sql}")) if one != two else None
    )


def plain(tables: Tables) -> Tables:
    return [table for table in tables if table.kind == "r" and not table.parent]


def alterable(random: Random, tables: Tables) -> Relation | None:
    """A partition's columns are its root's."""
    found = [table for table in tables if not table.parent]
    return random.choice(found) if found else None


def rename(random: Random, tables: Tables) -> Step | None:
    if not (old := plain(tables)):
        return None
    return Step((f"ALTER TABLE {random.choice(old).sql} RENAME TO {random.choice(NAMES)}",))


def swap(random: Random, tables: Tables) -> Step | None:
    if len(old := plain(tables)) < 2:
        return None
    one, two = random.sample(old, 2)
    return Step(
        (
            f"ALTER TABLE {one.sql} RENAME TO swapped",
            f"ALTER TABLE {two.sql} RENAME TO {one.name}",
            f"ALTER TABLE app.swapped RENAME TO {two.name}",
        ),
        random.random() < 0.8,
    )


def drop(random: Random, tables: Tables) -> Step | None:
    found = [table for table in tables if table.kind == "r"]
    return Step((f"DROP TABLE {random.choice(found).sql}",)) if found else None


def _create(random: Random, name: str, columns: dict[str, str]) -> tuple[str, str]:
    text = "".join(f", {column} {kind}" for column, kind in columns.items())
    ids = f"SELECT generate_series({random.randrange(50)}, {random.randrange(50, 99)})"
    return f"CREATE TABLE app.{name} (id int PRIMARY KEY{text})", f"INSERT INTO app.{name} (id) {ids}"


def create(random: Random, tables: Tables) -> Step | None:
    """A new table, with a name that another table may have had before."""
    columns = {name: random.choice(TYPES) for name in random.sample(COLUMNS, 2)}
    return Step(_create(random, random.choice(NAMES), columns))


def make_anew(random: Random, tables: Tables) -> Step | None:
    if not (old := plain(tables)):
        return None
    table = random.choice(old)
    columns = table.columns if random.random() < 0.7 else {name: random.choice(TYPES) for name in COLUMNS[:3]}
    return Step((f"DROP TABLE {table.sql}", *_create(random, table.name, columns)), random.random() < 0.7)


def _bounds(name: str) -> str:
    number = int(name[1:]) if name in PARTITIONS else 4
    return f"FOR VALUES FROM ({number * 100}) TO ({number * 100 + 100})"


def create_partition(random: Random, tables: Tables) -> Step | None:
    name = random.choice(PARTITIONS)
    first = int(name[1:]) * 100
    rows = f"INSERT INTO app.r (id) SELECT n FROM generate_series({first + 10}, {first + 30}) n"
    return Step((f"CREATE TABLE app.{name} PARTITION OF app.r {_bounds(name)}", rows))


def detach(random: Random, tables: Tables) -> Step | None:
    leaves = [table for table in tables if table.parent]
    if not leaves:
        return None
    leaf = random.choice(leaves)
    first = int(leaf.name[1:]) * 100 if leaf.name in PARTITIONS else 400
    ids = f"SELECT n FROM generate_series({first + 40}, {first + 60}) n"
    fill = f"INSERT INTO {leaf.sql} (id) {ids} ON CONFLICT DO NOTHING"
    out = f"ALTER TABLE app.r DETACH PARTITION {leaf.sql}"
    back = f"ALTER TABLE app.r ATTACH PARTITION {leaf.sql} {_bounds(leaf.name)}"
    statements = random.choice(((out,), (out, fill), (out, fill, back), (out, f"TRUNCATE {leaf.sql}", back)))
    return Step(statements, random.random() < 0.6)


def exchange(random: Random, tables: Tables) -> Step | None:
    """A partition and a table that was filled beside it."""
    leaves = [table for table in tables if table.parent and table.name in PARTITIONS]
    if not leaves:
        return None
    leaf = random.choice(leaves)
    first = int(leaf.name[1:]) * 100
    return Step(
        (
            f"CREATE TABLE app.fresh (LIKE {leaf.sql} INCLUDING ALL)",
            f"INSERT INTO app.fresh (id) SELECT generate_series({first + 5}, {first + 15})",
            f"ALTER TABLE app.r DETACH PARTITION {leaf.sql}",
            random.choice((f"DROP TABLE {leaf.sql}", f"ALTER TABLE {leaf.sql} RENAME TO stale")),
            f"ALTER TABLE app.fresh RENAME TO {leaf.name}",
            f"ALTER TABLE app.r ATTACH PARTITION {leaf.sql} {_bounds(leaf.name)}",
        ),
        random.random() < 0.6,
    )


def attach(random: Random, tables: Tables) -> Step | None:
    """A table that was detached before, or is made for it."""
    roots = [table for table in tables if table.name == "r"]
    loose = [table for table in plain(tables) if table.name in PARTITIONS]
    if not roots:
        return None
    make: tuple[str, ...] = ()
    name = random.choice(loose).name if loose else random.choice(PARTITIONS)
    if not loose:
        first = int(name[1:]) * 100
        text = "".join(f", {column} {kind}" for column, kind in roots[0].columns.items())
        rows = f"INSERT INTO app.{name} (id) SELECT n FROM generate_series({first}, {first + 20}) n"
        make = (f"CREATE TABLE app.{name} (id int PRIMARY KEY{text})", rows)
    return Step(
        (*make, f"ALTER TABLE app.r ATTACH PARTITION app.{name} {_bounds(name)}"), random.random() < 0.6
    )


def alter_type(random: Random, tables: Tables) -> Step | None:
    table = alterable(random, tables)
    if table is None or not table.columns:
        return None
    name, kind = random.choice(list(table.columns.items()))
    wider = random.choice(WIDER.get(kind, ("text",)))
    return Step((f"ALTER TABLE {table.sql} ALTER {name} TYPE {wider}",))


def rewrite(random: Random, tables: Tables) -> Step | None:
    table = alterable(random, tables)
    if table is None or not table.columns:
        return None
    name, kind = random.choice(list(table.columns.items()))
    using = f"upper({name}::text)::{kind}" if "char" in kind or kind == "text" else f"({name} + 1)::{kind}"
    return Step((f"ALTER TABLE {table.sql} ALTER {name} TYPE {kind} USING {using}",))


def add_column(random: Random, tables: Tables) -> Step | None:
    if (table := alterable(random, tables)) is None:
        return None
    kind = random.choice(("int", "text", "numeric(10,2)", "varchar(20)"))
    default = {"int": "7", "text": "'paid'", "numeric(10,2)": "1.25", "varchar(20)": "'it''s'"}[kind]
    name = random.choice(COLUMNS)
    add = f"ALTER TABLE {table.sql} ADD {name} {kind}"
    tails = (
        "",
        f" DEFAULT {default}",
        f" NOT NULL DEFAULT {default}",
        f" DEFAULT {default}",
        " DEFAULT (random() * 9)::int",
    )
    tail = random.choice(tails[: 5 if kind == "int" else 4])
    after = (f"ALTER TABLE {table.sql} ALTER {name} DROP DEFAULT",) if tail and random.random() < 0.25 else ()
    return Step((add + tail, *after))


def drop_column(random: Random, tables: Tables) -> Step | None:
    table = alterable(random, tables)
    if table is None or not table.columns:
        return None
    name, kind = random.choice(list(table.columns.items()))
    again = random.choice(("", "", f", ADD {name} {kind}", f", ADD {name} text DEFAULT 'again'"))
    return Step((f"ALTER TABLE {table.sql} DROP {name}{again}",))


def rename_columns(random: Random, tables: Tables) -> Step | None:
    """To another name, or crosswise."""
    table = alterable(random, tables)
    if table is None or len(table.columns) < 2:
        return None
    one, two = random.sample(list(table.columns), 2)
    alter = f"ALTER TABLE {table.sql} RENAME"
    if random.random() < 0.4:
        return Step((f"{alter} {one} TO {random.choice(COLUMNS)}",))
    return Step(
        (f"{alter} {one} TO x", f"{alter} {two} TO {one}", f"{alter} x TO {two}"), random.random() < 0.7
    )


def set_default(random: Random, tables: Tables) -> Step | None:
    table = alterable(random, tables)
    if table is None or not table.columns:
        return None
    name, kind = random.choice(list(table.columns.items()))
    what = random.choice(
        (f"SET DEFAULT {value(random, kind)}", "DROP DEFAULT", "SET NOT NULL", "DROP NOT NULL")
    )
    return Step((f"ALTER TABLE {table.sql} ALTER {name} {what}",))


def maintain(random: Random, tables: Tables) -> Step | None:
    return Step(
        (f"{random.choice(('VACUUM FULL', 'ANALYZE', 'VACUUM'))} {random.choice(tables).sql}",),
        together=False,
    )


Draw = Callable[[Random, Tables], Step | None]
DML: Sequence[Draw] = (insert, insert, insert, update, update, update, delete)
DDL: Sequence[Draw] = (
    *(truncate, move_rows, rename, swap, drop, create, make_anew, make_anew),
    *(
        create_partition,
        detach,
        detach,
        attach,
        exchange,
        alter_type,
        alter_type,
        rewrite,
        add_column,
        add_column,
    ),
    *(drop_column, rename_columns, set_default, maintain),
)
