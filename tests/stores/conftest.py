"""What is broken between a store and its server is broken as for the servers' own tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "servers"))
