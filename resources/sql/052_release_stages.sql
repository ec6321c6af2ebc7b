-- Releases that are tried beside the live one. A table of its own: engines of an earlier version take every row of
-- release_switches for a switch.

CREATE TABLE release_stages (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version      integer NOT NULL REFERENCES releases (version),
    stage        text NOT NULL CHECK (stage IN ('shadow', 'retired')),
    after_switch bigint NOT NULL CHECK (after_switch >= 0),
    staged_at    timestamptz NOT NULL DEFAULT now(),
    reason       text NOT NULL
);
CREATE INDEX release_stages_version ON release_stages (version, id);
COMMENT ON COLUMN release_stages.after_switch IS 'Newest row of release_switches then: what of a release came last, stage or switch.';
