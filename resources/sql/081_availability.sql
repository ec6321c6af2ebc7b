-- How long the engine could decide. Heartbeats that follow each other and say the same are one row, which grows.

CREATE TABLE live_span (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account     text NOT NULL REFERENCES live_account,
    session_id  bigint NOT NULL REFERENCES live_session,
    epoch       bigint NOT NULL,
    realtime    boolean NOT NULL,
    level       smallint NOT NULL CHECK (level BETWEEN 0 AND 4),
    deciding    boolean NOT NULL,
    ai          boolean NOT NULL CHECK (deciding OR NOT ai),
    why         text NOT NULL,
    began_at    timestamptz NOT NULL,
    ended_at    timestamptz NOT NULL CHECK (ended_at >= began_at),
    began_clock bigint NOT NULL,
    ended_clock bigint NOT NULL,
    in_order    boolean NOT NULL
);
CREATE INDEX live_span_account ON live_span (account, id);
COMMENT ON TABLE live_span IS 'Time that no row covers is time without a fresh heartbeat; a restart always begins a row.';
COMMENT ON COLUMN live_span.realtime IS 'Whether the market was a real one, which closes on weekends and waits for nobody.';
COMMENT ON COLUMN live_span.level IS 'Of the newest decisions at the last heartbeat; 0: none yet.';
COMMENT ON COLUMN live_span.deciding IS 'Whether it could decide at level 1, 2 or 3.';
COMMENT ON COLUMN live_span.ai IS 'Whether it could decide at level 1 or 2.';
COMMENT ON COLUMN live_span.began_clock IS 'Market time at the beginning, ns UTC.';
COMMENT ON COLUMN live_span.in_order IS 'Whether the engine ended with this heartbeat, asked to or because its tape was over.';

CREATE TABLE availability (
    account     text NOT NULL,
    day         date NOT NULL,
    required_s  double precision NOT NULL CHECK (required_s >= 0),
    decision_s  double precision NOT NULL CHECK (decision_s BETWEEN 0 AND required_s),
    ai_s        double precision NOT NULL CHECK (ai_s BETWEEN 0 AND decision_s),
    held_s      double precision NOT NULL CHECK (held_s >= 0),
    computed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, day)
);
COMMENT ON TABLE availability IS 'Seconds of each trading day, which turns at 17:00 New York; written anew by the asset of this name.';
COMMENT ON COLUMN availability.held_s IS 'Seconds in which the kill switch was on; they are not part of required_s.';
