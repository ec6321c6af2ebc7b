"""The live session: ticks in, one decision step a closed bar, journalled orders out."""
