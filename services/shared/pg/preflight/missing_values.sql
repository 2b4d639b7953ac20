-- The values that rows have in a column that was added with a default after them: from 11 on.
SELECT 'pg_class'::regclass AS class, attrelid AS object, attnum AS part, {a.attmissingval} AS text,
       attrelid AS relation
  FROM pg_attribute a
 WHERE attrelid >= 16384 AND NOT attisdropped
