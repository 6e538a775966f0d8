"""``python -m sessiondb``."""

from __future__ import annotations

from sessiondb.ops.cli import main

if __name__ == "__main__":
    main()
