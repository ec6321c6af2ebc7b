-- Every manifest is signed when it is recorded; one without a signature, from before, is refused when it is read.

ALTER TABLE releases ADD COLUMN signature bytea CHECK (octet_length(signature) = 64);
ALTER TABLE releases ADD COLUMN key_id text CHECK (key_id ~ '^[0-9a-f]{16}$');
ALTER TABLE releases ADD CHECK ((signature IS NULL) = (key_id IS NULL));
COMMENT ON COLUMN releases.signature IS 'Ed25519 of the canonical JSON text of the manifest; never of what jsonb prints.';
COMMENT ON COLUMN releases.key_id IS 'First 16 hexadecimal digits of the SHA-256 of the public key.';
