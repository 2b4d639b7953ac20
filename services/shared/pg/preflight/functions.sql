-- Objects of owners who are not superusers, through which PostgreSQL calls functions when a row is written,
-- with the rights of the writer. Functions are found in the expressions themselves, because pg_depend does
-- not record built-in ones. The result includes functions that users wrote, and all volatile functions: a few
-- built-in ones and some of extensions run any SQL that they are given. It includes every rule, because views
-- that a rule reads may call functions too.
WITH called AS (
    SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass AS class, k.oid AS object, 0 AS part,
           k.conrelid AS relation, c.relowner AS owner, '' AS of, k.conbin::text AS expression
      FROM pg_catalog.pg_constraint k
      JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
     WHERE k.contype = 'c'
    UNION ALL
    SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, 0, 0, t.typowner,
           pg_catalog.format('constraint %%I of ', k.conname), k.conbin::text
      FROM pg_catalog.pg_constraint k
      JOIN pg_catalog.pg_type t ON t.oid = k.contypid
     WHERE k.contype = 'c'
    UNION ALL
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, d.adrelid, d.adnum, d.adrelid, c.relowner, 'generated ',
           d.adbin::text
      FROM pg_catalog.pg_attrdef d
      JOIN pg_catalog.pg_class c ON c.oid = d.adrelid
      JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
     WHERE {a.attgenerated} <> ''
    UNION ALL
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, i.indexrelid, 0, i.indrelid, c.relowner, '',
           pg_catalog.concat(i.indexprs::text, i.indpred::text)
      FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
    UNION ALL
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, p.partrelid, 0, p.partrelid, c.relowner, 'partition key of ',
           p.partexprs::text
      FROM pg_catalog.pg_partitioned_table p
      JOIN pg_catalog.pg_class c ON c.oid = p.partrelid
    UNION ALL
    SELECT 'pg_catalog.pg_trigger'::pg_catalog.regclass, t.oid, 0, t.tgrelid, c.relowner, '',
           pg_catalog.concat(':funcid ', t.tgfoid, ' ', t.tgqual::text)
      FROM pg_catalog.pg_trigger t
      JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
     WHERE t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal
    UNION ALL
    SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass, r.oid, 0, r.ev_class, c.relowner, '', NULL
      FROM pg_catalog.pg_rewrite r
      JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
     WHERE r.ev_enabled IN ('A', 'R') AND c.relkind IN ('r', 'p')
    UNION ALL
    -- For ranges, GiST indexes compute the distance between two bounds.
    SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, r.rngtypid, 0, 0, t.typowner, '',
           pg_catalog.concat(':funcid ', r.rngsubdiff::pg_catalog.oid)
      FROM pg_catalog.pg_range r
      JOIN pg_catalog.pg_type t ON t.oid = r.rngtypid
    UNION ALL
    -- Values arrive as text, and rows without a key are found by their text.
    SELECT 'pg_catalog.pg_cast'::pg_catalog.regclass, k.oid, 0, 0, t.typowner, '',
           pg_catalog.concat(':funcid ', k.castfunc)
      FROM pg_catalog.pg_cast k
      JOIN pg_catalog.pg_type t
           ON t.oid = CASE k.castsource WHEN 'text'::pg_catalog.regtype THEN k.casttarget ELSE k.castsource END
     WHERE 'text'::pg_catalog.regtype IN (k.castsource, k.casttarget)
    UNION ALL
    -- Refreshed and analyzed with the rights of the owner, which is the destination's role with --no-owner.
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, 0, c.oid, c.relowner, '', NULL
      FROM pg_catalog.pg_class c
     WHERE c.relkind = 'm' AND %(no_owner)s
    UNION ALL
    SELECT 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, s.oid, 0, s.stxrelid, s.stxowner, '',
           {s.stxexprs}
      FROM pg_catalog.pg_statistic_ext s
     WHERE %(no_owner)s
), found AS (
    SELECT called.*,
           ARRAY(SELECT p.oid
                   FROM pg_catalog.regexp_matches(called.expression, ':(?:op)?funcid (\d+)', 'g') m
                   JOIN pg_catalog.pg_proc p ON p.oid = m[1]::pg_catalog.oid
                  WHERE p.provolatile = 'v'
                     OR p.oid >= 16384
                        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                                         WHERE e.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                                           AND e.objid = p.oid AND e.deptype = 'e')) AS functions
      FROM called
)
SELECT n.nspname::text, c.relname::text,
       found.of || pg_catalog.pg_describe_object(found.class, found.object, found.part)
  FROM found
  LEFT JOIN pg_catalog.pg_class c ON c.oid = found.relation
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE (found.expression IS NULL OR found.functions <> '{}')
   AND (n.nspname IS NULL OR n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', %(bookkeeping)s))
   AND found.object >= 16384
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                    WHERE e.classid = found.class AND e.objid = found.object AND e.deptype = 'e')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                    WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = found.relation
                      AND e.deptype = 'e')
   AND EXISTS (SELECT FROM pg_catalog.pg_roles r
                WHERE NOT r.rolsuper
                  AND (r.oid = found.owner
                       OR r.oid IN (SELECT p.proowner FROM pg_catalog.pg_proc p
                                     WHERE p.oid = ANY (found.functions))))
 ORDER BY 3
