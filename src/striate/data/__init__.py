"""What every stage reads: the stored arrays and their manifest, splits, framing, files."""
