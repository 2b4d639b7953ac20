"""One table of a random schema, and the statements that create it."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from services.shared.model import TableId
from tests.property.kinds import Kind, name


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


def divide(random: Random, table: Table, column: Column) -> None:
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


def ddl(table: Table, columns: list[str] | None = None, *, bare: bool = False) -> list[str]:
    """columns: their definitions, when they are not the source's. bare: no key, constraint or index."""
    items = columns or [f"{column.sql} {type_of(table, column)}{column.ddl}" for column in table.columns]
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
        f"{name(each)} {type_of(table, found[each])}{' NOT NULL' if found[each] in table.key else ''}"
        for each in table.attached
    ]
    return [
        f"CREATE TABLE {leaf} (gone int, {', '.join(items)})",
        f"ALTER TABLE {leaf} DROP gone",
        f"ALTER TABLE {table.sql} ATTACH PARTITION {leaf} {bound}",
    ]


def type_of(table: Table, column: Column) -> str:
    return column.kind.sql_type.format(schema=name(table.schema))
