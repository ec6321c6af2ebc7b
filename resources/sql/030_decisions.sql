-- Decisions are made at every tick; a row is kept of those that answer a closed bar or a material move, that act, or
-- that change level or breakers. The number of a decision in its session is what makes a second one impossible.

ALTER TABLE decision ADD COLUMN number bigint;
ALTER TABLE decision ADD COLUMN time_ns bigint;
ALTER TABLE decision ADD COLUMN kind text NOT NULL DEFAULT 'bar';
UPDATE decision SET number = numbered.number, time_ns = decision.bar_time
FROM (SELECT ctid AS place, row_number() OVER (PARTITION BY session_id ORDER BY bar_time, symbol) AS number
      FROM decision) AS numbered
WHERE decision.ctid = numbered.place;
ALTER TABLE decision ALTER COLUMN number SET NOT NULL;
ALTER TABLE decision ALTER COLUMN time_ns SET NOT NULL;
ALTER TABLE decision ALTER COLUMN kind DROP DEFAULT;
ALTER TABLE decision DROP CONSTRAINT decision_pkey;
ALTER TABLE decision ADD PRIMARY KEY (session_id, number);
DROP INDEX decision_session;
CREATE INDEX decision_symbol ON decision (account, symbol, time_ns);
COMMENT ON TABLE decision IS 'Decisions worth a record; the key is what makes a second one impossible.';
COMMENT ON COLUMN decision.number IS 'Counts every decision of the session from 1, the ones without a record too.';
COMMENT ON COLUMN decision.time_ns IS 'Market time of the decision.';
COMMENT ON COLUMN decision.kind IS 'bar: a base bar closed; move: the price moved far; retry: the models had not answered; tick: any other; command: a person''s.';
