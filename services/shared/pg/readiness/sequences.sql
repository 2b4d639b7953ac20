-- Sequences that do not cycle, and the share of their values that is used up. Our role does not see the values
-- of sequences that it may not read.
SELECT s.schemaname, s.sequencename, u.used
  FROM pg_catalog.pg_sequences s,
       LATERAL (SELECT CASE WHEN s.increment_by > 0 THEN s.last_value::numeric - s.min_value
                            ELSE s.max_value::numeric - s.last_value
                       END / nullif(s.max_value::numeric - s.min_value, 0) AS used) u
 WHERE NOT s.cycle AND u.used >= %(from)s
   AND s.schemaname !~ '^pg_' AND s.schemaname NOT IN ('information_schema', %(bookkeeping)s)
 ORDER BY u.used DESC, s.schemaname, s.sequencename
