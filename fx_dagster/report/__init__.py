"""What a person reads: the summary, its page, its terminal lines and the pictures in Dagster's metadata."""
