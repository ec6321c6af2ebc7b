-- The live session: who owns an account, what was decided, ordered and dealt, and whether a person stopped it.
-- Market times are bigint nanoseconds UTC, as everywhere in this project; times of this machine are timestamptz.

CREATE TABLE live_account (
    account text PRIMARY KEY CHECK (account ~ '^[A-Za-z0-9_-]{1,29}$'),
    epoch   bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    taken_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN live_account.epoch IS 'Rises with every engine that takes the account; a write of an older one is refused.';

CREATE TABLE kill_switch (
    account    text PRIMARY KEY,
    engaged    boolean NOT NULL DEFAULT false,
    flatten    boolean NOT NULL DEFAULT false,
    reason     text NOT NULL DEFAULT '',
    changed_at timestamptz NOT NULL DEFAULT now(),
    resumed_at timestamptz
);
COMMENT ON COLUMN kill_switch.resumed_at IS 'Last fx resume; a run cancelled before it no longer keeps the session down.';

CREATE TABLE kill_switch_log (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text NOT NULL,
    engaged boolean NOT NULL,
    flatten boolean NOT NULL,
    reason  text NOT NULL,
    by_whom text NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE live_session (
    session_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account      text NOT NULL REFERENCES live_account,
    state        text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'finished')),
    fingerprint  text NOT NULL,
    replay_start bigint NOT NULL,
    replay_end   bigint NOT NULL CHECK (replay_end > replay_start),
    sequence     bigint NOT NULL DEFAULT 0,
    position     bigint NOT NULL,
    clock        bigint NOT NULL,
    snapshot     bytea,
    reason       text NOT NULL DEFAULT '',
    started_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz
);
CREATE UNIQUE INDEX live_session_running ON live_session (account) WHERE state = 'running';
COMMENT ON COLUMN live_session.sequence IS 'Number of the last checkpoint; what is written twice by mistake is noticed by it.';
COMMENT ON COLUMN live_session.position IS 'Every tick before it is decided upon; a restart goes on with the ticks from it.';
COMMENT ON COLUMN live_session.clock IS 'Where the market''s clock was last seen; ticks up to it are made up for at once.';
COMMENT ON COLUMN live_session.fingerprint IS 'Of what was replayed: a session is only resumed on the same tape.';

CREATE TABLE live_status (
    account    text PRIMARY KEY REFERENCES live_account,
    session_id bigint NOT NULL REFERENCES live_session,
    epoch      bigint NOT NULL,
    pid        integer NOT NULL,
    host       text NOT NULL,
    beat_at    timestamptz NOT NULL DEFAULT now(),
    status     jsonb NOT NULL
);

CREATE TABLE decision (
    account          text NOT NULL,
    session_id       bigint NOT NULL REFERENCES live_session,
    symbol           text NOT NULL CHECK (length(symbol) <= 29),
    bar_time         bigint NOT NULL,
    level            smallint NOT NULL CHECK (level BETWEEN 1 AND 4),
    level_reason     text NOT NULL,
    action           text NOT NULL,
    score            double precision,
    outcome          jsonb NOT NULL,
    features         bytea NOT NULL,
    feature_hash     text NOT NULL,
    release          integer,
    client_order_id  bigint,
    latency_total_ms double precision NOT NULL,
    latency_model_ms double precision,
    epoch            bigint NOT NULL,
    decided_at       timestamptz NOT NULL,
    PRIMARY KEY (account, symbol, bar_time, session_id)
);
CREATE INDEX decision_session ON decision (session_id, bar_time);
COMMENT ON TABLE decision IS 'One row a symbol and closed bar of a session; the key is what makes a second decision impossible.';
COMMENT ON COLUMN decision.features IS 'float32 little-endian [F], in the order of the catalogue that feature_hash names.';

CREATE TABLE trade_order (
    client_order_id bigint PRIMARY KEY CHECK (client_order_id > 0),
    account         text NOT NULL,
    session_id      bigint NOT NULL REFERENCES live_session,
    symbol          text NOT NULL CHECK (length(symbol) <= 29),
    purpose         text NOT NULL,
    lots            double precision NOT NULL,
    stop            double precision NOT NULL,
    target          double precision NOT NULL,
    decided_ns      bigint NOT NULL,
    expires_ns      bigint NOT NULL,
    risk_money      double precision NOT NULL,
    epoch           bigint NOT NULL,
    comment         text NOT NULL,
    sequence        bigint NOT NULL,
    state           text NOT NULL,
    broker_order    bigint NOT NULL DEFAULT 0,
    changed_ns      bigint NOT NULL,
    journalled_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX trade_order_session ON trade_order (session_id, sequence);
COMMENT ON COLUMN trade_order.sequence IS 'Of the checkpoint it was journalled with.';
COMMENT ON COLUMN trade_order.lots IS 'Signed: above 0 buys; 0 in an order that only moves stop or target.';

CREATE TABLE order_event (
    client_order_id bigint NOT NULL REFERENCES trade_order,
    state           text NOT NULL,
    time_ns         bigint NOT NULL,
    broker_order    bigint NOT NULL,
    message         text NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client_order_id, state, time_ns)
);

CREATE TABLE deal (
    session_id      bigint NOT NULL REFERENCES live_session,
    ticket          bigint NOT NULL,
    account         text NOT NULL,
    client_order_id bigint NOT NULL,
    symbol          text NOT NULL,
    time_ns         bigint NOT NULL,
    lots            double precision NOT NULL,
    price           double precision NOT NULL,
    commission      double precision NOT NULL,
    swap            double precision NOT NULL,
    profit          double precision NOT NULL,
    reason          text NOT NULL,
    closing         boolean NOT NULL,
    risk_money      double precision NOT NULL,
    PRIMARY KEY (session_id, ticket)
);
COMMENT ON COLUMN deal.ticket IS 'The broker''s; a deal is applied once by it.';
COMMENT ON COLUMN deal.client_order_id IS '0 for deals that the server made: stop, target, stop-out.';

CREATE TABLE account_state (
    session_id  bigint NOT NULL REFERENCES live_session,
    time        bigint NOT NULL,
    currency    text NOT NULL,
    balance     double precision NOT NULL,
    equity      double precision NOT NULL,
    margin_used double precision NOT NULL,
    positions   jsonb NOT NULL,
    PRIMARY KEY (session_id, time)
);

CREATE TABLE live_event (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_id  bigint NOT NULL REFERENCES live_session,
    kind        text NOT NULL,
    symbol      text,
    message     text NOT NULL,
    market_time bigint NOT NULL,
    at          timestamptz NOT NULL
);
CREATE INDEX live_event_session ON live_event (session_id, id);
CREATE UNIQUE INDEX live_event_once ON live_event (session_id, kind, coalesce(symbol, ''), market_time, at);
COMMENT ON TABLE live_event IS 'What a person may want to know afterwards: level changes, quarantined symbols, restarts, faults.';

CREATE TABLE model_baseline (
    session_id bigint NOT NULL REFERENCES live_session,
    at         timestamptz NOT NULL,
    rows       integer NOT NULL,
    latency_ms double precision NOT NULL
);
CREATE INDEX model_baseline_session ON model_baseline (session_id, at);
COMMENT ON TABLE model_baseline IS 'The bare model call, measured with the session''s own client between decisions.';
