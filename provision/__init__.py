"""Throw-away database servers for tests, the demo and the benchmarks: own port, own folder, gone at the end."""
