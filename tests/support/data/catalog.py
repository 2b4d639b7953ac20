"""The objects of a migrated schema, as queries that return (name, definition) pairs as text.

Names are complete, definitions are PostgreSQL's own deparsing, so the results of two servers can be compared
as sets. `{user}` stands for the condition that a pg_namespace row `n` is the user's.
"""

from __future__ import annotations

from typing import LiteralString

USER_SCHEMAS: LiteralString = (
    "n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'pgmig')"
)

DEFINITIONS: dict[str, LiteralString] = {
    "relation": """
        SELECT c.oid::regclass::text,
               concat_ws(' ', c.relkind, c.relpersistence, c.relreplident, c.reloptions::text,
                         'rls', c.relrowsecurity, c.relforcerowsecurity,
                         'filled', c.relispopulated,
                         pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid))
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND {user}""",
    "column": """
        SELECT c.oid::regclass::text || '.' || quote_ident(a.attname),
               concat_ws(' ', row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum),
                         format_type(a.atttypid, a.atttypmod), 'not null', a.attnotnull,
                         a.attidentity, coalesce(to_jsonb(a) ->> 'attgenerated', ''),
                         pg_get_expr(d.adbin, d.adrelid))
        FROM pg_attribute a
             JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attnum > 0 AND NOT a.attisdropped
              AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND {user}""",
    "index": """
        SELECT i.indexrelid::regclass::text,
               concat_ws(' ', pg_get_indexdef(i.indexrelid),
                         'valid', i.indisvalid, 'identity', i.indisreplident)
        FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'm') AND {user}""",
    # NOT NULL is read from columns: before PostgreSQL 18 it is not a constraint.
    "constraint": """
        SELECT coalesce(nullif(conrelid, 0)::regclass::text, contypid::regtype::text)
                   || ' ' || quote_ident(conname),
               concat_ws(' ', pg_get_constraintdef(k.oid), 'valid', convalidated)
        FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
        WHERE contype <> 'n' AND {user}""",
    "trigger": """
        SELECT t.tgrelid::regclass::text || ' ' || quote_ident(t.tgname),
               concat_ws(' ', replace(pg_get_triggerdef(t.oid), 'EXECUTE PROCEDURE', 'EXECUTE FUNCTION'),
                         'enabled', t.tgenabled)
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE NOT t.tgisinternal AND {user} AND p.pronamespace IS DISTINCT FROM to_regnamespace('pgmig')""",
    "view": """
        SELECT c.oid::regclass::text, pg_get_viewdef(c.oid)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('v', 'm') AND {user}""",
    "function": """
        SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid)
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE {user} AND NOT EXISTS (SELECT FROM pg_aggregate g WHERE g.aggfnoid = p.oid)
              AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.objid = p.oid AND e.deptype = 'e')""",
    "enum": """
        SELECT t.oid::regtype::text, string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
        FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid JOIN pg_namespace n ON n.oid = t.typnamespace
        WHERE {user} GROUP BY t.oid""",
    "domain": """
        SELECT t.oid::regtype::text,
               concat_ws(' ', format_type(t.typbasetype, t.typtypmod), 'not null', t.typnotnull, t.typdefault)
        FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
        WHERE t.typtype = 'd' AND {user}""",
    "sequence": """
        SELECT s.seqrelid::regclass::text,
               concat_ws(' ', format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin, s.seqmax,
                         s.seqcache, s.seqcycle,
                         'of', (SELECT d.refobjid::regclass::text || ' ' || d.refobjsubid FROM pg_depend d
                                WHERE d.objid = s.seqrelid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0))
        FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {user}""",
    "comment": """
        SELECT o.type || ' ' || o.identity, d.description
        FROM pg_description d CROSS JOIN pg_identify_object(d.classoid, d.objoid, d.objsubid) o
             JOIN pg_namespace n ON n.nspname = o.schema OR (o.type = 'schema' AND n.nspname = o.name)
        WHERE {user}""",
    "extension": "SELECT extname, extversion FROM pg_extension",
}

TABLES: LiteralString = """
    SELECT n.nspname, c.relname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND {user} ORDER BY c.relpages DESC, 1, 2"""
"""Ordinary tables and partition leaves: everything that holds rows of its own."""

SEQUENCES: LiteralString = """
    SELECT n.nspname, c.relname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'S' AND {user}"""
