-- Faults that were made on purpose, and what came of them.

CREATE TABLE drill (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account    text NOT NULL,
    name       text NOT NULL CHECK (name ~ '^[a-z0-9-]{1,64}$'),
    by_whom    text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz,
    passed     boolean,
    seconds    double precision CHECK (seconds >= 0),
    text       text NOT NULL DEFAULT '',
    checks     jsonb NOT NULL DEFAULT '[]',
    CHECK ((ended_at IS NULL) = (passed IS NULL))
);
CREATE INDEX drill_newest ON drill (account, id DESC);
COMMENT ON COLUMN drill.ended_at IS 'Null: it runs, or was cut off; what it had stopped then goes on by its watchdog.';
COMMENT ON COLUMN drill.checks IS 'What was expected and seen: a list of {what, seen, passed, seconds, limit_s}; passed is null where nothing could be seen.';
