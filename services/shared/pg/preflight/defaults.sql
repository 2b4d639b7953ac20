-- Default and generation expressions of columns: class, object and part as in pg_describe_object; the relation.
SELECT 'pg_class'::regclass AS class, adrelid AS object, adnum AS part, pg_get_expr(adbin, adrelid) AS text,
       adrelid AS relation
  FROM pg_attrdef
