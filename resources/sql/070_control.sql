-- Control from outside: who may do what, what was ordered, and how good a level a person allows.

CREATE TABLE control_token (
    token_id   text PRIMARY KEY CHECK (token_id ~ '^[0-9a-f]{12}$'),
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    role       text NOT NULL CHECK (role IN ('read', 'operate')),
    digest     bytea NOT NULL CHECK (octet_length(digest) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz
);
COMMENT ON COLUMN control_token.digest IS 'SHA-256 of the whole token, of which 256 bits are random; the token itself is shown once and kept nowhere.';

CREATE TABLE control_nonce (
    token_id text NOT NULL,
    nonce    text NOT NULL CHECK (length(nonce) BETWEEN 16 AND 64),
    seen_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (token_id, nonce)
);
CREATE INDEX control_nonce_age ON control_nonce (seen_at);
COMMENT ON TABLE control_nonce IS 'Commands that were accepted lately; kept for longer than a command''s stamp is believed, then removed.';

CREATE TABLE control_audit (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    request_id text NOT NULL CHECK (request_id ~ '^[0-9a-f]{32}$'),
    phase      text NOT NULL CHECK (phase IN ('denied', 'asked', 'done', 'refused', 'failed')),
    account    text NOT NULL,
    token_id   text,
    who        text NOT NULL,
    role       text,
    command    text NOT NULL,
    arguments  jsonb NOT NULL,
    client     text NOT NULL,
    result     text NOT NULL
);
CREATE INDEX control_audit_request ON control_audit (request_id);
COMMENT ON COLUMN control_audit.phase IS 'asked: accepted and about to be done; done, refused, failed: how it ended; denied: never accepted. One without an end was cut off.';

CREATE FUNCTION control_audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit of commands is added to, never changed or removed';
END
$$;
CREATE TRIGGER control_audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON control_audit
FOR EACH STATEMENT EXECUTE FUNCTION control_audit_is_append_only();

CREATE TABLE level_ceiling (
    account    text PRIMARY KEY,
    level      smallint NOT NULL CHECK (level BETWEEN 1 AND 4),
    reason     text NOT NULL DEFAULT '',
    changed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN level_ceiling.level IS 'No decision is at a better level than this one, which a person set; 1: no ceiling.';

CREATE TABLE level_ceiling_log (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text NOT NULL,
    level   smallint NOT NULL,
    reason  text NOT NULL,
    by_whom text NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);
