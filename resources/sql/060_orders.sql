-- Orders at a real broker: what it answered, what is in doubt, and its deals, each once by account and ticket.
-- Market times are bigint nanoseconds UTC; times of this machine are timestamptz.

-- Every write of an engine runs through this: it raises where the account's epoch is another, and a taking engine waits
-- for the transaction that has asked.
CREATE FUNCTION live_fence(of_account text, of_epoch bigint) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    current_epoch bigint;
BEGIN
    SELECT epoch INTO current_epoch FROM live_account WHERE account = of_account FOR SHARE;
    IF current_epoch IS DISTINCT FROM of_epoch THEN
        RAISE EXCEPTION 'account %: epoch % is over, % is current', of_account, of_epoch, coalesce(current_epoch, 0)
            USING ERRCODE = 'FX001';
    END IF;
    RETURN of_epoch;
END
$$;

ALTER TABLE trade_order
    ADD COLUMN position bigint NOT NULL DEFAULT 0 CHECK (position >= 0),
    ADD COLUMN attempt integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    ADD COLUMN sent_ns bigint NOT NULL DEFAULT 0,
    ADD COLUMN claimed_lots double precision NOT NULL DEFAULT 0,
    ADD COLUMN remainder_gone boolean NOT NULL DEFAULT false,
    ADD COLUMN refused boolean NOT NULL DEFAULT false,
    ADD COLUMN message text NOT NULL DEFAULT '',
    ADD COLUMN revision bigint NOT NULL DEFAULT 1 CHECK (revision >= 1);
ALTER TABLE trade_order ADD CHECK (state IN (
    'planned', 'journalled', 'sent', 'unknown', 'accepted', 'rejected', 'partial', 'filled', 'cancelled'));
CREATE INDEX trade_order_open ON trade_order (account)
    WHERE state NOT IN ('rejected', 'filled', 'cancelled');
COMMENT ON COLUMN trade_order.position IS 'The broker''s position that an order to close or to move a stop is about; 0: the symbol''s.';
COMMENT ON COLUMN trade_order.claimed_lots IS 'Most that the broker said to have executed; deals confirm it.';
COMMENT ON COLUMN trade_order.revision IS 'Changes of a real order so far, its journalling the first; a change that is written again is noticed by it.';
COMMENT ON COLUMN trade_order.remainder_gone IS 'What is not executed will not be.';

CREATE TABLE held_order (
    client_order_id bigint NOT NULL REFERENCES trade_order,
    account         text NOT NULL,
    held_ns         bigint NOT NULL,
    reason          text NOT NULL,
    released_ns     bigint,
    verdict         text CHECK (verdict = 'not_sent'),
    by_whom         text,
    decided_at      timestamptz,
    epoch           bigint NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client_order_id, held_ns),
    CHECK ((verdict IS NULL) = (by_whom IS NULL))
);
CREATE UNIQUE INDEX held_order_now ON held_order (client_order_id) WHERE released_ns IS NULL;
COMMENT ON TABLE held_order IS 'Orders whose fate nothing proves: no entry of that symbol until a person has looked, or the broker shows it.';
COMMENT ON COLUMN held_order.verdict IS 'A person''s: the broker does not have it.';

CREATE TABLE order_answer (
    client_order_id bigint NOT NULL REFERENCES trade_order,
    time_ns         bigint NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('accepted', 'partial', 'refused', 'requote', 'unknown')),
    verdict         text NOT NULL,
    code            bigint NOT NULL,
    text            text NOT NULL,
    broker_order    bigint NOT NULL,
    deal            bigint NOT NULL,
    lots            double precision NOT NULL,
    price           double precision NOT NULL,
    epoch           bigint NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client_order_id, time_ns, kind)
);
COMMENT ON COLUMN order_answer.verdict IS 'What the answer meant: applied, late, or a contradiction.';

CREATE TABLE broker_deal (
    account         text NOT NULL REFERENCES live_account,
    ticket          bigint NOT NULL CHECK (ticket > 0),
    client_order_id bigint NOT NULL,
    broker_order    bigint NOT NULL,
    position        bigint NOT NULL,
    key             bigint NOT NULL,
    symbol          text NOT NULL CHECK (length(symbol) <= 29),
    time_ns         bigint NOT NULL,
    lots            double precision NOT NULL CHECK (lots <> 0),
    price           double precision NOT NULL CHECK (price > 0),
    commission      double precision NOT NULL,
    swap            double precision NOT NULL,
    profit          double precision NOT NULL,
    reason          text NOT NULL,
    closing         boolean NOT NULL,
    comment         text NOT NULL,
    epoch           bigint NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, ticket)
);
CREATE INDEX broker_deal_order ON broker_deal (client_order_id) WHERE client_order_id > 0;
CREATE INDEX broker_deal_position ON broker_deal (account, position);
COMMENT ON TABLE broker_deal IS 'Fills of our orders and positions; the key is what makes a second application impossible.';
COMMENT ON COLUMN broker_deal.client_order_id IS 'Our order that made it; 0: stop, target, stop-out, or a person''s hand on a position of ours.';

CREATE TABLE foreign_position (
    account       text NOT NULL REFERENCES live_account,
    ticket        bigint NOT NULL,
    symbol        text NOT NULL,
    lots          double precision NOT NULL,
    entry_price   double precision NOT NULL,
    stop          double precision NOT NULL,
    opened_ns     bigint NOT NULL,
    first_seen_ns bigint NOT NULL,
    last_seen_ns  bigint NOT NULL,
    gone_ns       bigint,
    epoch         bigint NOT NULL,
    PRIMARY KEY (account, ticket)
);
COMMENT ON TABLE foreign_position IS 'Positions of other programs and of people: counted in risk, never managed.';

CREATE TABLE exit_log_join (
    account   text NOT NULL REFERENCES live_account,
    log_id    text NOT NULL CHECK (log_id ~ '^[0-9a-f]{32}$'),
    through   bigint NOT NULL,
    epoch     bigint NOT NULL,
    joined_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, log_id)
);
COMMENT ON COLUMN exit_log_join.through IS 'Number of the last record of that local file that is in this journal.';
