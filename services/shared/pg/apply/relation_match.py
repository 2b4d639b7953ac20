"""Match a relation of the change stream with the destination's catalog: the target of its rows."""

from __future__ import annotations

from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, Lsn, PgmigError, ReplicaIdentity
from services.shared.pg.apply.schema_drift import drift
from services.shared.pg.apply.target_statements import TargetColumn
from services.shared.pg.apply.target_table import TargetTable
from services.shared.pg.session.connection import translated
from services.shared.pg.session.encoding import stored_encoding
from services.shared.pg.session.sql_files import for_version
from services.shared.pgoutput import Relation

_COLUMNS = """
SELECT a.attname,
       pg_catalog.format_type(a.atttypid, a.atttypmod),
       pg_catalog.format_type(plain.oid, -1),
       CASE WHEN t.typtype IN ('b', 'e', 'r', 'm') AND t.typcategory <> 'A' AND t.typarray <> 0
                  AND t.typdelim = ','
            THEN pg_catalog.format_type(a.atttypid, -1) END,
       a.attidentity = 'a',
       coalesce(a.attnum = ANY (i.indkey::int2[]), false),
       coalesce((SELECT pg_catalog.format('OPERATOR(%%I.%%s)', n.nspname, o.oprname)
                   FROM pg_catalog.pg_opclass c
                   JOIN pg_catalog.pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3
                                            AND m.amoplefttype = c.opcintype
                                            AND m.amoprighttype = c.opcintype
                   JOIN pg_catalog.pg_operator o ON o.oid = m.amopopr
                   JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
                  WHERE c.opcmethod = 403 AND c.opcdefault AND n.nspname <> 'pg_catalog'
                    AND c.opcintype = coalesce(nullif(t.typbasetype, 0), t.oid)), '='),
       {a.attgenerated} <> '',
       t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_cast k
                          WHERE k.castsource = t.oid AND k.oid >= 16384), -- FirstNormalObjectId
       plain.namespace = 'pg_catalog'::pg_catalog.regnamespace
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_cast k
                          WHERE k.casttarget = plain.oid AND k.oid >= 16384),
       EXISTS (SELECT FROM pg_catalog.pg_trigger g
                WHERE g.tgrelid = a.attrelid AND g.tgenabled IN ('A', 'R') AND NOT g.tgisinternal),
       (SELECT c.relkind = 'p' FROM pg_catalog.pg_class c WHERE c.oid = a.attrelid)
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
 CROSS JOIN LATERAL (
       WITH RECURSIVE base (oid, below, namespace) AS (
            SELECT t.oid, t.typbasetype, t.typnamespace
             UNION ALL
            SELECT b.oid, b.typbasetype, b.typnamespace
              FROM base JOIN pg_catalog.pg_type b ON b.oid = base.below)
       SELECT base.oid, base.namespace FROM base WHERE base.below = 0) AS plain
  LEFT JOIN pg_catalog.pg_index i ON i.indrelid = a.attrelid AND i.indisprimary AND i.indimmediate
 WHERE a.attrelid = pg_catalog.to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""


# Keys that no two rows can share: without a predicate, not deferrable, and with the collation of the column's
# `=`.
_UNIQUE = """
SELECT ARRAY(SELECT a.attname::text
               FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:{i.indnkeyatts} - 1]))
  FROM pg_catalog.pg_index i
 WHERE i.indrelid = pg_catalog.to_regclass(%s)
   AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
   AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[], i.indcollation::oid[]) k (attnum, rule)
                     JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                    WHERE k.rule IS NOT NULL AND k.rule <> a.attcollation)
"""


async def describe_target(
    conn: AsyncConnection, relation: Relation, lsn: Lsn, *, generated: bool = False
) -> TargetTable:
    """Match a Relation message with the destination. Raises PgmigError(SCHEMA_DRIFT) with both column lists
    and the DDL that reconciles them if a published column does not exist on the destination. Also raises it
    for a column that the destination generates, unless the source sends generated columns (`generated`)."""
    name = sql.Identifier(relation.schema, relation.name).as_string(conn)
    with translated(f"reading the columns of {relation.table} on the destination"):
        query = for_version(_COLUMNS, conn.info.server_version)
        rows = await (await conn.execute(query, [name])).fetchall()
        keys = for_version(_UNIQUE, conn.info.server_version)
        unique = [set(row[0]) for row in await (await conn.execute(keys, [name])).fetchall()]
    found = {row[0]: TargetColumn(*row[:10]) for row in rows}
    unfit = await drift(conn, relation, {name: column.type_sql for name, column in found.items()}, lsn)
    if unfit is not None:
        raise unfit
    wanted = [column.name for column in relation.columns]
    columns = tuple(found[name] for name in wanted)
    if not generated and (computed := [column.name for column in columns if column.generated]):
        raise _computed(relation, computed, lsn)
    where = _find_by(relation, columns, found)
    key = {columns[i].name for i in where}
    return TargetTable(
        relation,
        columns,
        where=where,
        row_by_row=any(row[10] for row in rows) or (bool(where) and not any(one <= key for one in unique)),
        further=tuple(row[0] for row in rows if not row[7] and row[0] not in wanted),
        partitioned=bool(rows) and bool(rows[0][11]),
        encoding=stored_encoding(conn),
    )


def _computed(relation: Relation, columns: list[str], lsn: Lsn) -> PgmigError:
    return PgmigError(
        ErrorKind.SCHEMA_DRIFT,
        f"columns of table {relation.table} are generated on the destination, but the source sends values "
        f"for them: {', '.join(columns)}",
        "run ALTER TABLE ... ALTER COLUMN ... DROP EXPRESSION on the destination, as was done on the source, "
        "then continue",
        lsn,
    )


def _find_by(
    relation: Relation, columns: tuple[TargetColumn, ...], found: dict[str, TargetColumn]
) -> tuple[int, ...]:
    """Indexes of the columns that find a row: the key that was sent. With FULL, the primary key."""
    if relation.replica_identity is not ReplicaIdentity.FULL:
        return tuple(i for i, column in enumerate(relation.columns) if column.key)
    primary = tuple(i for i, column in enumerate(columns) if column.primary)
    return primary if len(primary) == sum(column.primary for column in found.values()) else ()
