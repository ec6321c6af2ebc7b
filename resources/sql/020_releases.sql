-- Releases of models: immutable rows, and which one answers.

CREATE TABLE releases (
    version      integer PRIMARY KEY CHECK (version > 0),
    created_at   timestamptz NOT NULL DEFAULT now(),
    feature_hash text NOT NULL,
    digest       text NOT NULL,
    manifest     jsonb NOT NULL
);

-- Every switch is kept; the newest row says which release is active. A rollback is one more switch.
CREATE TABLE release_switches (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version     integer NOT NULL REFERENCES releases (version),
    kind        text NOT NULL CHECK (kind IN ('activate', 'rollback')),
    switched_at timestamptz NOT NULL DEFAULT now(),
    reason      text NOT NULL
);

CREATE SEQUENCE release_number;
