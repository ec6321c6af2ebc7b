-- What the gates said when a release was promoted, and whether a person overruled one.

ALTER TABLE release_switches ADD COLUMN forced boolean NOT NULL DEFAULT false;
ALTER TABLE release_switches ADD COLUMN gates jsonb;
COMMENT ON COLUMN release_switches.gates IS 'Each gate with passed, text and forced; null: switched by no person''s promotion.';

CREATE FUNCTION release_history_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'switches and stages of releases are added, never changed or removed';
END
$$;
CREATE TRIGGER release_switches_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON release_switches
FOR EACH STATEMENT EXECUTE FUNCTION release_history_is_append_only();
CREATE TRIGGER release_stages_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON release_stages
FOR EACH STATEMENT EXECUTE FUNCTION release_history_is_append_only();
