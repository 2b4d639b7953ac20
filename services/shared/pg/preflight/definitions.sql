-- The parts of definitions in which text may occur, except column defaults: class, object and part as in
-- pg_describe_object; the relation, or 0. 16384: the first OID that is not built in.
WITH temporary AS (
    SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_(toast_)?temp_'
)
SELECT 'pg_type'::regclass AS class, enumtypid AS object, 0 AS part, enumlabel::text AS text, 0::oid AS relation
  FROM pg_enum JOIN pg_type t ON t.oid = enumtypid
 WHERE typnamespace NOT IN (SELECT oid FROM temporary)
UNION ALL
SELECT 'pg_type'::regclass, oid, 0, typdefault, 0
  FROM pg_type WHERE oid >= 16384 AND typnamespace NOT IN (SELECT oid FROM temporary)
UNION ALL
SELECT 'pg_proc'::regclass, p.oid, 0,
       CASE WHEN a.aggfnoid IS NULL THEN pg_get_functiondef(p.oid)
            ELSE concat(p.proargnames::text, a.agginitval, a.aggminitval) END, 0
  FROM pg_proc p LEFT JOIN pg_aggregate a ON a.aggfnoid = p.oid
 WHERE p.oid >= 16384 AND p.pronamespace NOT IN (SELECT oid FROM temporary)
UNION ALL
SELECT CASE WHEN contypid = 0 THEN 'pg_constraint'::regclass ELSE 'pg_type'::regclass END,
       CASE WHEN contypid = 0 THEN oid ELSE contypid END, 0, pg_get_constraintdef(oid), conrelid
  FROM pg_constraint WHERE oid >= 16384 AND connamespace NOT IN (SELECT oid FROM temporary)
UNION ALL
SELECT 'pg_class'::regclass, indexrelid, 0, pg_get_indexdef(indexrelid), indrelid
  FROM pg_index WHERE indexrelid >= 16384
UNION ALL
SELECT 'pg_class'::regclass, oid, 0, pg_get_expr(relpartbound, oid), oid
  FROM pg_class WHERE relpartbound IS NOT NULL
UNION ALL
SELECT 'pg_class'::regclass, partrelid, 0, pg_get_partkeydef(partrelid), partrelid FROM pg_partitioned_table
UNION ALL
SELECT 'pg_class'::regclass, ftrelid, 0, ftoptions::text, ftrelid FROM pg_foreign_table
UNION ALL
SELECT 'pg_class'::regclass, attrelid, attnum, attfdwoptions::text, attrelid
  FROM pg_attribute WHERE attfdwoptions IS NOT NULL AND NOT attisdropped
UNION ALL
SELECT 'pg_rewrite'::regclass, oid, 0, pg_get_ruledef(oid), ev_class FROM pg_rewrite WHERE oid >= 16384
UNION ALL
SELECT 'pg_trigger'::regclass, oid, 0, pg_get_triggerdef(oid), tgrelid FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'pg_policy'::regclass, oid, 0,
       concat(polname, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)), polrelid
  FROM pg_policy
UNION ALL
SELECT 'pg_statistic_ext'::regclass, oid, 0, pg_get_statisticsobjdef(oid), stxrelid FROM pg_statistic_ext
UNION ALL
SELECT 'pg_operator'::regclass, oid, 0, oprname::text, 0 FROM pg_operator WHERE oid >= 16384
UNION ALL
SELECT 'pg_collation'::regclass, oid, 0, collname::text, 0 FROM pg_collation WHERE oid >= 16384
