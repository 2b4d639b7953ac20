-- The definitions that pg_dump reads: a description, an identity, and what changes with an alteration.
WITH kept AS (
    SELECT oid, nspname FROM pg_catalog.pg_namespace
     WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
relation AS (
    SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, c.relkind
      FROM pg_catalog.pg_class c JOIN kept n ON n.oid = c.relnamespace
     WHERE c.relpersistence <> 't')
SELECT pg_catalog.format('schema %I', nspname), oid::text, nspname::text FROM kept
 UNION ALL
SELECT 'relation ' || name, oid::text, relkind::text FROM relation
 UNION ALL
SELECT pg_catalog.format('column %s.%I', r.name, a.attname), a.attnum::text,
       pg_catalog.concat_ws(' ', a.attisdropped, a.atttypid, a.atttypmod, a.attcollation, a.attnotnull)
  FROM pg_catalog.pg_attribute a JOIN relation r ON r.oid = a.attrelid WHERE a.attnum > 0
 UNION ALL
SELECT 'default of ' || r.name, d.oid::text, d.xmin::text
  FROM pg_catalog.pg_attrdef d JOIN relation r ON r.oid = d.adrelid
 UNION ALL
SELECT pg_catalog.format('constraint %I', k.conname), k.oid::text, k.xmin::text
  FROM pg_catalog.pg_constraint k JOIN kept n ON n.oid = k.connamespace
 UNION ALL
SELECT 'rule of ' || r.name, w.oid::text, w.xmin::text
  FROM pg_catalog.pg_rewrite w JOIN relation r ON r.oid = w.ev_class
 UNION ALL
SELECT pg_catalog.format('trigger %I of %s', t.tgname, r.name), t.oid::text, t.xmin::text
  FROM pg_catalog.pg_trigger t JOIN relation r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal
 UNION ALL
SELECT pg_catalog.format('policy %I of %s', p.polname, r.name), p.oid::text, p.xmin::text
  FROM pg_catalog.pg_policy p JOIN relation r ON r.oid = p.polrelid
 UNION ALL
SELECT pg_catalog.format('statistics %I.%I', n.nspname, s.stxname), s.oid::text, s.xmin::text
  FROM pg_catalog.pg_statistic_ext s JOIN kept n ON n.oid = s.stxnamespace
 UNION ALL
SELECT pg_catalog.format('function %I.%I', n.nspname, f.proname), f.oid::text, f.xmin::text
  FROM pg_catalog.pg_proc f JOIN kept n ON n.oid = f.pronamespace
 UNION ALL
SELECT pg_catalog.format('type %I.%I', n.nspname, t.typname), t.oid::text, t.typtype::text
  FROM pg_catalog.pg_type t JOIN kept n ON n.oid = t.typnamespace
 WHERE t.typrelid = 0 OR t.typrelid IN (SELECT oid FROM relation)
 UNION ALL
SELECT pg_catalog.format('collation %I.%I', n.nspname, c.collname), c.oid::text, ''
  FROM pg_catalog.pg_collation c JOIN kept n ON n.oid = c.collnamespace
 UNION ALL
SELECT pg_catalog.format('operator %I.%s', n.nspname, o.oprname), o.oid::text, o.xmin::text
  FROM pg_catalog.pg_operator o JOIN kept n ON n.oid = o.oprnamespace
 UNION ALL
SELECT pg_catalog.format('extension %I', extname), oid::text, extversion FROM pg_catalog.pg_extension
