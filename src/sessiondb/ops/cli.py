"""The command ``sessiondb``. It starts without Typer, to say how to get it."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Exits with 0, 1 (something is wrong) or 2 (asked wrongly)."""
    try:
        from sessiondb.ops.commands import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("typer", "rich"):
            raise
        print(
            f"sessiondb: the command line needs {error.name}, which is not installed: pip install 'sessiondb[cli]'.",
            file=sys.stderr,
        )
        sys.exit(2)
    app(prog_name="sessiondb")
