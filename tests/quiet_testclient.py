"""``TestClient`` without the warning that Starlette gives where httpx is installed and httpx2 is not."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

__all__ = ["TestClient"]
