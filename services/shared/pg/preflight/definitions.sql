-- Comments, and the parts of definitions in which text may occur: class, object and part as in
-- pg_describe_object. 16384: the first OID that is not built in.
SELECT 'pg_class'::regclass AS class, adrelid AS object, adnum AS part, pg_get_expr(adbin, adrelid) AS text
  FROM pg_attrdef
UNION ALL
SELECT classoid, objoid, objsubid, description FROM pg_description
UNION ALL
SELECT 'pg_type'::regclass, enumtypid, 0, enumlabel::text FROM pg_enum
UNION ALL
SELECT 'pg_type'::regclass, oid, 0, typdefault FROM pg_type WHERE oid >= 16384
UNION ALL
SELECT 'pg_proc'::regclass, oid, 0, concat(prosrc, pg_get_expr(proargdefaults, 0), proargnames::text)
  FROM pg_proc WHERE oid >= 16384
UNION ALL
SELECT 'pg_constraint'::regclass, oid, 0, pg_get_constraintdef(oid) FROM pg_constraint WHERE oid >= 16384
UNION ALL
SELECT 'pg_class'::regclass, indexrelid, 0, pg_get_indexdef(indexrelid) FROM pg_index WHERE indexrelid >= 16384
UNION ALL
SELECT 'pg_class'::regclass, oid, 0, pg_get_expr(relpartbound, oid) FROM pg_class WHERE relpartbound IS NOT NULL
UNION ALL
SELECT 'pg_rewrite'::regclass, oid, 0, pg_get_ruledef(oid) FROM pg_rewrite WHERE oid >= 16384
UNION ALL
SELECT 'pg_trigger'::regclass, oid, 0, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'pg_policy'::regclass, oid, 0, concat(pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
  FROM pg_policy
UNION ALL
SELECT 'pg_operator'::regclass, oid, 0, oprname::text FROM pg_operator WHERE oid >= 16384
UNION ALL
SELECT 'pg_collation'::regclass, oid, 0, collname::text FROM pg_collation WHERE oid >= 16384
