-- How far the live features have drifted from those that a release learned on, measurement by measurement: what the live
-- decisions go by. Market times are bigint nanoseconds UTC, times of this machine timestamptz.

CREATE TABLE drift (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account        text NOT NULL,
    release        integer NOT NULL CHECK (release > 0),
    feature_hash   text NOT NULL,
    symbol         text NOT NULL DEFAULT '',
    measured_until bigint NOT NULL,
    drift          double precision NOT NULL CHECK (drift BETWEEN 0 AND 1),
    recorded_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX drift_newest ON drift (account, release, feature_hash, symbol, id);
COMMENT ON TABLE drift IS 'One row a measurement; a session goes by the newest of its account, release and features.';
COMMENT ON COLUMN drift.symbol IS 'Empty: all symbols of the account together.';
COMMENT ON COLUMN drift.measured_until IS 'Market time that the account''s session had reached; nothing later was looked at.';
COMMENT ON COLUMN drift.drift IS '0 none … 1 strong.';

CREATE FUNCTION drift_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'measurements of drift are added, never changed or removed';
END
$$;
CREATE TRIGGER drift_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON drift
FOR EACH STATEMENT EXECUTE FUNCTION drift_is_append_only();
