"""Random tables: keys, replica identities, constraints, partitions, and how the destination differs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from services.shared.model import TableId
from tests.property.kinds import BIG, BIG_BYTES, INT, KINDS, LONG_KEY, TYPES_DDL, Kind, name

_KEYS = [kind for kind in KINDS if kind.key]
_STYLES = (
    "plain",
    "Mixed Case",
    "select",
    "ünï ☃",
    'q"uote',
    "it's",
    "per%cent %s",
    "$1",
    "semi;--",
    "back\\slash",
    "x" * 60,
    "é" * 29,
)
IDENTITIES = (
    *(("key",) * 7),
    *(("full",) * 2),
    *(("full without key",) * 3),
    *(("full, key deferrable",) * 2),
    *(("index",) * 2),
    *(("index without key",) * 2),
    "nothing",
)

_EXTRA_COLUMNS = (
    '"extra 1" int DEFAULT 7',
    "\"extra 2\" text DEFAULT 'there only'",
    '"extra 3" int',
    '"extra 4" int GENERATED ALWAYS AS (1 + 1) STORED',
    "\"extra 5\" text NOT NULL DEFAULT upper('x')",
)


def _draw_name(random: Random, number: int) -> str:
    """A name within 63 bytes, unlike any with another number."""
    style = random.choice(_STYLES) if random.random() < 0.4 else "plain"
    return f"{style}{number}"


@dataclass(slots=True)
class Column:
    """ddl: what follows the type at the source and the destination. writable: "yes", "default" (an
    UPDATE may only set DEFAULT: GENERATED ALWAYS AS IDENTITY), "no" (a stored generated column).
    required: NULL is refused."""

    name: str
    kind: Kind
    ddl: str = ""
    writable: str = "yes"
    required: bool = False

    @property
    def sql(self) -> str:
        return name(self.name)


@dataclass(slots=True)
class Table:
    """schema, name: unquoted. key: primary or otherwise identifying columns, possibly none.

    identity: one of IDENTITIES. unique: columns with a unique constraint or index of their own.
    constraints: after the columns of CREATE TABLE. after: statements that complete it, with
    which the destination may begin without (`bare`).
    """

    schema: str
    name: str
    columns: list[Column]
    key: list[Column]
    identity: str
    deferrable: list[Column] = field(default_factory=list)
    unique: list[Column] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    partition_by: str = ""
    partitions: list[tuple[str, str]] = field(default_factory=list)  # name, bound
    attached: list[str] = field(default_factory=list)  # the last partition's columns in their own order
    indexes: list[str] = field(default_factory=list)
    identity_index: str = ""
    refers: bool = False

    @property
    def sql(self) -> str:
        return f"{name(self.schema)}.{name(self.name)}"

    @property
    def id(self) -> TableId:
        return TableId(self.schema, self.name)

    @property
    def others(self) -> list[Column]:
        """Columns that are not the key's and can be set."""
        return [column for column in self.columns if column not in self.key and column.writable == "yes"]

    @property
    def big(self) -> list[Column]:
        return [column for column in self.others if column.kind.big]

    @property
    def insertable(self) -> list[Column]:
        return [column for column in self.columns if column.writable != "no"]


@dataclass(frozen=True, slots=True)
class Schema:
    """name: unquoted. source, destination: the statements that make it there."""

    name: str
    tables: list[Table]
    source: list[str]
    destination: list[str]


def draw_schema(random: Random, number: int) -> Schema:
    """One to three tables in a schema of their own; `number` makes its name unique."""
    schema = f"{random.choice(('h', 'H ', 'é☃'))}{number}"
    tables: list[Table] = []
    for n in range(random.choice((1, 1, 2, 2, 3))):
        tables.append(_draw_table(random, schema, n, tables))
    head = [f"CREATE SCHEMA {name(schema)}", TYPES_DDL.format(schema=name(schema))]
    source, destination = list(head), list(head)
    bare = random.random() < 0.1
    for table in tables:
        source += _ddl(table)
        there = _divided_there(random, table)
        destination += _ddl(there, bare=bare) if bare else _destination_ddl(random, there)
        destination += _destination_triggers(random, table)
    return Schema(schema, tables, source, destination)


def _draw_table(random: Random, schema: str, number: int, earlier: list[Table]) -> Table:
    identity = random.choice(IDENTITIES)
    keys = [] if identity == "full without key" else _draw_key(random)
    columns = keys + [
        Column(_draw_name(random, 10 + n), random.choice(KINDS)) for n in range(random.randint(1, 4))
    ]
    if random.random() < 0.4:
        columns.append(Column(_draw_name(random, 20), random.choice((BIG, BIG, BIG_BYTES))))
    table = Table(schema, _draw_name(random, number), columns, keys, identity)
    if random.random() < 0.45:
        _add_unique(random, table)
    if random.random() < 0.2:
        _add_generated(random, table)
    if random.random() < 0.15:
        column = Column("serial no", INT, " GENERATED ALWAYS AS IDENTITY", "default")
        table.columns.append(column)
    if random.random() < 0.1:
        _add_exclusion(table)
    if random.random() < 0.5:
        _add_reference(random, table, random.choice([*earlier, table]))
    if random.random() < 0.25 and keys and identity in {"key", "full", "nothing"} and not table.refers:
        _partition(random, table)
    random.shuffle(table.columns)
    _add_key(random, table)
    if table.partitions and random.random() < 0.4 and not any(column.ddl for column in table.columns):
        table.attached = random.sample([column.name for column in table.columns], len(table.columns))
    return table


def _draw_key(random: Random) -> list[Column]:
    draw = random.random()
    if draw < 0.45:
        return [Column(_draw_name(random, 1), INT)]
    if draw < 0.52:
        clause = random.choice((" GENERATED ALWAYS AS IDENTITY", " GENERATED BY DEFAULT AS IDENTITY"))
        return [Column("id", INT, clause, "default" if "ALWAYS" in clause else "yes")]
    if draw < 0.56:
        return [Column(_draw_name(random, 1), LONG_KEY)]
    count = random.choice((1, 1, 2, 3))
    return [Column(_draw_name(random, n), random.choice(_KEYS)) for n in range(count)]


def _add_key(random: Random, table: Table) -> None:
    """Primary key or identifying index, as the table's replica identity has it."""
    listed = ", ".join(column.sql for column in table.key)
    for column in table.key:
        column.required = True
    match table.identity:
        case "key" | "full":
            table.constraints.append(f"PRIMARY KEY ({listed})")
        case "full, key deferrable":
            when = random.choice(("DEFERRED", "IMMEDIATE"))
            table.constraints.append(f"PRIMARY KEY ({listed}) DEFERRABLE INITIALLY {when}")
            table.deferrable += table.key[:1]
        case "index" | "index without key":
            for column in table.key:
                column.ddl += " NOT NULL"
            table.identity_index = _draw_name(random, 90 + int(table.name[-1]))
            table.indexes.append(
                f"CREATE UNIQUE INDEX {name(table.identity_index)} ON {table.sql} ({listed})"
            )
            if table.identity == "index":
                column = Column("other key", INT, required=True)
                table.columns.append(column)
                table.constraints.append(f"PRIMARY KEY ({column.sql})")
        case "nothing" if table.key and random.random() < 0.5:
            table.constraints.append(f"PRIMARY KEY ({listed})")


def _add_unique(random: Random, table: Table) -> None:
    kinds = [kind for kind in _KEYS if kind.sql_type in {"int", "text", "numeric", "int[]", "citext"}]
    column = Column(_draw_name(random, 30), random.choice(kinds))
    table.columns.append(column)
    table.unique.append(column)
    match random.randrange(6):
        case 0 | 1:
            table.constraints.append(f"UNIQUE ({column.sql})")
        case 2:
            when = random.choice(("DEFERRED", "IMMEDIATE"))
            table.constraints.append(f"UNIQUE ({column.sql}) DEFERRABLE INITIALLY {when}")
            table.deferrable.append(column)
        case 3:
            table.constraints.append(f"UNIQUE NULLS NOT DISTINCT ({column.sql})")
        case 4:
            table.indexes.append(
                f"CREATE UNIQUE INDEX ON {table.sql} ({column.sql})"
                f" WHERE {column.sql} <> CAST({column.kind.values[0]} AS {column.kind.sql_type})"
            )
        case _:
            table.indexes.append(f"CREATE UNIQUE INDEX ON {table.sql} (({column.sql} IS NULL), {column.sql})")


def _add_generated(random: Random, table: Table) -> None:
    """A stored generated column, at times one that must be unique."""
    column = Column("Doubled", INT, " GENERATED ALWAYS AS (base * 2) STORED", "no")
    table.columns += [Column("base", INT), column]
    if random.random() < 0.3:
        table.constraints.append(f"UNIQUE ({column.sql})")


def _add_exclusion(table: Table) -> None:
    kind = next(kind for kind in KINDS if kind.sql_type == "int4range")
    table.columns.append(Column("span", kind))
    table.constraints.append("EXCLUDE USING gist (span WITH &&)")


def _add_reference(random: Random, table: Table, parent: Table) -> None:
    """A foreign key to `parent`, which may be the table itself, if its key can be referred to."""
    if parent.identity not in {"key", "full"} or len(parent.key) != 1 or parent.partitions:
        return
    column = Column("parent", parent.key[0].kind)
    table.columns.append(column)
    table.refers = True
    actions = ("CASCADE", "CASCADE", "SET NULL", "NO ACTION")
    rules = f"ON DELETE {random.choice(actions)} ON UPDATE {random.choice(actions)}"
    deferred = " DEFERRABLE INITIALLY DEFERRED" if random.random() < 0.4 else ""
    table.constraints.append(f"FOREIGN KEY ({column.sql}) REFERENCES {parent.sql} {rules}{deferred}")


def _partition(random: Random, table: Table) -> None:
    """By the key's first column. Unique constraints must hold that column, so there are no others."""
    column = table.key[0]
    if column.kind is not INT or column.writable != "yes" or table.unique or table.constraints:
        return
    _divide(random, table, column)


def _divide(random: Random, table: Table, column: Column) -> None:
    shape = random.choice(("RANGE", "LIST", "HASH"))
    table.partition_by = f" PARTITION BY {shape} ({column.sql})"
    low, high = sorted(random.sample(range(2, 14), 2))
    bounds = {
        "RANGE": [f"FROM (MINVALUE) TO ({low})", f"FROM ({low}) TO ({high})", f"FROM ({high}) TO (MAXVALUE)"],
        "LIST": [f"IN ({low}, 1)", f"IN ({high})", "DEFAULT"],
        "HASH": ["WITH (MODULUS 2, REMAINDER 0)", "WITH (MODULUS 2, REMAINDER 1)"],
    }[shape]
    clauses = [bound if bound == "DEFAULT" else f"FOR VALUES {bound}" for bound in bounds]
    table.partitions = [(f"part {table.name[-1]}{n}", clause) for n, clause in enumerate(clauses)]


def _divided_there(random: Random, table: Table) -> Table:
    """The table as the destination divides it: at times otherwise, under the same names, or not at all."""
    draw = random.random()
    if not table.partitions or draw < 0.3:
        return table
    there = replace(table, partition_by="", partitions=[], attached=[])
    if draw < 0.65:
        _divide(random, there, table.key[0])
    return there


def _ddl(table: Table, columns: list[str] | None = None, *, bare: bool = False) -> list[str]:
    """columns: their definitions, when they are not the source's. bare: no key, constraint or index."""
    items = columns or [f"{column.sql} {_type(table, column)}{column.ddl}" for column in table.columns]
    listed = ", ".join([*items, *([] if bare else table.constraints)])
    statements = [f"CREATE TABLE {table.sql} ({listed}){table.partition_by}"]
    leaves = [f"{name(table.schema)}.{name(leaf)}" for leaf, _ in table.partitions]
    for leaf, (_, bound) in zip(leaves, table.partitions, strict=True):
        if leaf == leaves[-1] and table.attached:
            statements += _attached(table, leaf, bound)
        else:
            statements.append(f"CREATE TABLE {leaf} PARTITION OF {table.sql} {bound}")
    stores = leaves or [table.sql]
    for column in table.columns:
        if column.kind.big:
            statements += [f"ALTER TABLE {store} ALTER {column.sql} SET STORAGE EXTERNAL" for store in stores]
    if bare:
        return statements
    statements += table.indexes
    if table.identity.startswith("full"):
        statements += [f"ALTER TABLE {store} REPLICA IDENTITY FULL" for store in stores]
    elif table.identity_index:
        statements.append(
            f"ALTER TABLE {table.sql} REPLICA IDENTITY USING INDEX {name(table.identity_index)}"
        )
    elif table.identity == "nothing":
        statements += [f"ALTER TABLE {store} REPLICA IDENTITY NOTHING" for store in stores]
    return statements


def _attached(table: Table, leaf: str, bound: str) -> list[str]:
    """A partition of its own making, with one column that is gone."""
    found = {column.name: column for column in table.columns}
    items = [
        f"{name(each)} {_type(table, found[each])}{' NOT NULL' if found[each] in table.key else ''}"
        for each in table.attached
    ]
    return [
        f"CREATE TABLE {leaf} (gone int, {', '.join(items)})",
        f"ALTER TABLE {leaf} DROP gone",
        f"ALTER TABLE {table.sql} ATTACH PARTITION {leaf} {bound}",
    ]


def _type(table: Table, column: Column) -> str:
    return column.kind.sql_type.format(schema=name(table.schema))


def _destination_ddl(random: Random, table: Table) -> list[str]:
    """As at the source, or with columns in another order, of wider types, and more of them."""
    if random.random() < 0.4:
        return _ddl(table)
    columns = []
    for column in table.columns:
        wider = column.kind.wider and not column.ddl and not table.refers and random.random() < 0.3
        columns.append(f"{column.sql} {column.kind.wider if wider else _type(table, column)}{column.ddl}")
    if random.random() < 0.5:
        columns += random.sample(_EXTRA_COLUMNS, random.randint(1, 3))
    if random.random() < 0.7:
        random.shuffle(columns)
    statements = _ddl(replace(table, attached=[]), columns)
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


def _destination_triggers(random: Random, table: Table) -> list[str]:
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
