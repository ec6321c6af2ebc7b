-- Every training and every backtest that was materialised, for good: how good the best of them looks by luck alone
-- depends on how many there were. Market times are bigint nanoseconds UTC.

CREATE TABLE trial (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recorded_at     timestamptz NOT NULL DEFAULT now(),
    kind            text NOT NULL CHECK (kind IN ('training', 'backtest')),
    asset           text NOT NULL,
    run_id          text NOT NULL,
    source          text NOT NULL,
    symbols         text[] NOT NULL,
    timeframe       text NOT NULL,
    feature_hash    text NOT NULL,
    fingerprint     text NOT NULL CHECK (fingerprint ~ '^[0-9a-f]{64}$'),
    configuration   jsonb NOT NULL,
    trainings       text[] NOT NULL,
    span_start      bigint NOT NULL,
    span_end        bigint NOT NULL CHECK (span_end > span_start),
    days            integer CHECK (days > 0),
    sharpe          double precision,
    skewness        double precision,
    kurtosis        double precision,
    metrics         jsonb NOT NULL,
    day_numbers     bytea,
    system_returns  bytea,
    control_returns bytea,
    UNIQUE (run_id, kind, asset),
    CHECK (
        CASE kind
            WHEN 'training' THEN num_nonnulls(days, sharpe, day_numbers, system_returns, control_returns) = 0
            ELSE num_nulls(days, day_numbers, system_returns, control_returns) = 0
                AND octet_length(day_numbers) = 8 * days
                AND octet_length(system_returns) = 8 * days
                AND octet_length(control_returns) = 8 * days
        END
    )
);
CREATE INDEX trial_market ON trial (source, timeframe, id);
COMMENT ON TABLE trial IS 'One row a materialisation; rows of one fingerprint and span are one trial.';
COMMENT ON COLUMN trial.fingerprint IS 'SHA-256 of the configuration: what decides the outcome beside the data.';
COMMENT ON COLUMN trial.trainings IS 'Fingerprints of the trainings that a backtest replays.';
COMMENT ON COLUMN trial.days IS 'Trading days of a backtest; null for a training.';
COMMENT ON COLUMN trial.sharpe IS 'Of one day, not annualised; null where nothing varied. Skewness and kurtosis (3: normal) likewise.';
COMMENT ON COLUMN trial.day_numbers IS 'int64 little-endian [days], numbers of trading days, which turn at 17:00 New York.';
COMMENT ON COLUMN trial.system_returns IS 'float64 little-endian [days], daily returns as fractions.';
COMMENT ON COLUMN trial.control_returns IS 'The same of the traditional control with the same settings.';

CREATE FUNCTION trial_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'trials are added, never changed or removed: every one counts';
END
$$;
CREATE TRIGGER trial_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON trial
FOR EACH STATEMENT EXECUTE FUNCTION trial_is_append_only();
