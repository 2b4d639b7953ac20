-- Records that say the same as an older one, and those beyond %(kept)s of one table.
WITH numbered AS (
  SELECT w.ctid AS place, w.relation, w.at,
         row_number() OVER (PARTITION BY w.relation, w.role_name, w.application ORDER BY w.at, w.ctid) AS copies
    FROM pgmig.foreign_write w
   WHERE w.pipeline = %(pipeline)s
), ranked AS (
  SELECT n.place, n.copies, row_number() OVER (PARTITION BY n.relation ORDER BY n.copies, n.at, n.place) AS rank
    FROM numbered n
)
DELETE FROM pgmig.foreign_write f
 USING ranked r
 WHERE f.ctid = r.place AND (r.copies > 1 OR r.rank > %(kept)s)
