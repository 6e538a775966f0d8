"""Property tests have no deadline: a busy machine is no counterexample."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("sessiondb", deadline=None)
settings.load_profile("sessiondb")
