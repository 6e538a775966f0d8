"""Running it: demo and tools."""
