"""The pure part: records, changes, tokens, policy and codec. Nothing here does I/O or awaits."""
